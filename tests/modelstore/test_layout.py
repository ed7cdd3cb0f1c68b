"""The paths of the layout, and names that would lead out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelstore import ModelStore
from modelstore.errors import InvalidNameError

STORE = ModelStore(Path("/mnt/models"))


def test_a_name_has_its_own_paths() -> None:
    names = ["sd", "sd.lease", "sd.previous"]
    paths = [
        path
        for name in names
        for path in (
            STORE.model(name),
            STORE.staging(name),
            STORE.lease(name),
            STORE.revisions(name),
            STORE.previous(name),
        )
    ]
    assert len(set(paths)) == len(paths)
    assert STORE.model("sd") == Path("/mnt/models/sd")
    assert STORE.revision("sd", "1-2") == Path("/mnt/models/.revisions/sd/1-2")


def test_the_link_is_relative_and_other_links_are_not_active(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    assert store.active("sd") is None

    store.model("sd").symlink_to(store.link_target("sd", "1-2"))
    assert store.model("sd").readlink() == Path(".revisions/sd/1-2")
    assert store.active("sd") == "1-2"

    store.model("sd").unlink()
    store.model("sd").symlink_to("/elsewhere/1-2")
    assert store.active("sd") is None
    (tmp_path / "plain").mkdir()
    assert store.active("plain") is None


def test_the_names_are_those_of_models_and_downloads(tmp_path: Path) -> None:
    for folder in ("plain", ".revisions/one", ".staging/two", ".trash/gone", "lost+found"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "dangling").symlink_to("nowhere")

    assert ModelStore(tmp_path).names() == ("dangling", "one", "plain", "two")


@pytest.mark.parametrize("revision", ["", "..", "a/b", ".previous", "a" * 101])
def test_a_revision_cannot_lead_out_of_its_folder(revision: str) -> None:
    with pytest.raises(InvalidNameError, match="not a valid revision name"):
        STORE.revision("sd", revision)


@pytest.mark.parametrize("name", ["a", "SDXL", "sd-1.5_fp16", "a" * 63])
def test_plain_names_are_accepted(name: str) -> None:
    assert STORE.model(name).name == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", ".staging", "-a", "a-", "a b", "a\n", "ä", "a" * 64]
)
def test_other_names_are_refused(name: str) -> None:
    for path in (STORE.model, STORE.staging, STORE.lease, STORE.revisions):
        with pytest.raises(InvalidNameError, match="use 1 to 63"):
            path(name)
