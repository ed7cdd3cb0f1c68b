"""The marker: its presence means complete, and an unreadable marker means incomplete."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from modelstore import (
    MARKER_NAME,
    FileEntry,
    IncompleteModelError,
    Marker,
    PartEntry,
    UnpublishedModelError,
)
from modelstore.layout import MODEL_INDEX_NAME

MARKER = Marker(
    name="sd",
    source="hf://owner/name@main",
    revision="0" * 40,
    variant="fp16",
    completed_at="2026-11-21T07:00:00+00:00",
    files=(FileEntry("unet/config.json", 2, "a" * 64), FileEntry("model_index.json", 3, "b" * 64)),
    asked_variant="fp16",
    parts=(PartEntry("refiner", "hf://owner/refiner@main", "1" * 40, None),),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sd" / "unet").mkdir(parents=True)
    (tmp_path / "sd" / "unet" / "config.json").write_bytes(b"{}")
    (tmp_path / "sd" / "model_index.json").write_bytes(b"{ }")
    return tmp_path / "sd"


def test_what_is_written_is_read(folder: Path) -> None:
    MARKER.write(folder)
    assert Marker.read(folder) == MARKER
    assert MARKER.size == 5
    assert [path.name for path in folder.glob(".*")] == [MARKER_NAME]


def test_components_that_were_left_out_are_listed_only_if_there_are_any(folder: Path) -> None:
    MARKER.write(folder)
    # An earlier reader refuses a field that it does not know.
    assert "left_out" not in json.loads((folder / MARKER_NAME).read_text())
    without = replace(MARKER, left_out=("safety_checker",))
    without.write(folder)
    assert Marker.read(folder) == without


def test_a_missing_folder_is_incomplete(tmp_path: Path) -> None:
    with pytest.raises(IncompleteModelError, match="model folder 'sd' does not exist"):
        Marker.read(tmp_path / "sd")


def test_a_pipeline_without_a_marker_was_not_published(folder: Path) -> None:
    with pytest.raises(UnpublishedModelError, match=f"^{folder} has model_index.json but no"):
        Marker.read(folder)


def test_a_folder_without_a_marker_is_incomplete(folder: Path) -> None:
    (folder / MODEL_INDEX_NAME).unlink()
    with pytest.raises(IncompleteModelError, match="did not finish"):
        Marker.read(folder)


def document(**changes: object) -> str:
    whole = {
        "schema_version": 1,
        "name": "sd",
        "source": "file:///a",
        "revision": "sha256:0",
        "variant": None,
        "completed_at": "",
        "files": [],
    }
    return json.dumps({key: value for key, value in (whole | changes).items() if value != "absent"})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ('{"schema_version": 1', "not valid JSON"),
        ("[" * 5000, "not valid JSON"),
        ("[]", "not of schema version 1"),
        (document(schema_version="absent"), "not of schema version 1"),
        (document(schema_version=3), "not of schema version 1 to 2"),
        (document(revision="absent"), "does not match its schema version"),
        (document(files="absent"), "does not match its schema version"),
        (document(files=[{"path": "a"}]), "does not match its schema version"),
        (document(parts=[{"folder": "a"}]), "does not match its schema version"),
        (document(unknown=1), "does not match its schema version"),
    ],
    ids=[
        "empty",
        "cut",
        "too deep",
        "no object",
        "no version",
        "newer version",
        "no revision",
        "no files",
        "half an entry",
        "half a part",
        "unknown field",
    ],
)
def test_an_invalid_marker_is_incomplete(folder: Path, text: str, reason: str) -> None:
    (folder / MARKER_NAME).write_text(text)
    with pytest.raises(IncompleteModelError, match=reason):
        Marker.read(folder)


def test_a_marker_of_the_first_version_is_read(folder: Path) -> None:
    (folder / MARKER_NAME).write_text(document())
    marker = Marker.read(folder)
    assert (marker.asked_variant, marker.parts) == (None, ())


def test_sizes_are_checked(folder: Path) -> None:
    MARKER.check_sizes(folder)

    (folder / "model_index.json").write_bytes(b"{}")
    with pytest.raises(IncompleteModelError, match=r"model_index\.json has 2 bytes, not 3"):
        MARKER.check_sizes(folder)

    (folder / "unet" / "config.json").unlink()
    with pytest.raises(IncompleteModelError, match=r"has no unet/config\.json"):
        MARKER.check_sizes(folder)
