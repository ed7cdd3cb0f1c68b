"""The verb ``adopt``: a folder that something else put on the volume becomes a revision."""

from __future__ import annotations

from pathlib import Path

import pytest

from downloader.errors import InvalidSettingError, NotFoundError, UnsuitableModelError
from downloader.settings import Adopt, Prune, Verify
from downloader.verbs import run_verb
from modelstore import MARKER_NAME, Marker, UnpublishedModelError
from tests.downloader.job import Job
from tests.downloader.pipeline_files import published_paths, whole_repository
from tests.downloader.volume import download, file_names, leftovers, revisions, tree, write_files


@pytest.fixture
def place(target: Path) -> Path:
    """The folder of a pipeline, with files that are not published."""
    return write_files(target / "sd", whole_repository() | {".cache/x": b"", ".gitattributes": b""})


def adopt(target: Path, **given: object) -> str:
    return run_verb(Adopt(**{"name": "sd", "target": target, **given}))


def test_a_folder_is_published_in_place_without_copies(place: Path, target: Path) -> None:
    inodes = {path: (place / path).stat().st_ino for path in published_paths()}
    with pytest.raises(UnpublishedModelError, match="the downloader did not publish it"):
        Marker.read(place)

    adopt(target)

    marker = Marker.read(place)
    assert file_names(place) == published_paths() | {MARKER_NAME}
    assert {path: (place / path).stat().st_ino for path in published_paths()} == inodes
    assert (marker.name, marker.source, marker.variant) == ("sd", place.as_uri(), "fp16")
    assert leftovers(target) == set()
    assert run_verb(Verify(target=target)) == "sd: intact"


def test_the_volume_may_be_a_relative_path(
    place: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(target.parent)

    adopt(Path(target.name))

    assert Marker.read(place).source == place.as_uri()


def test_a_second_run_changes_nothing(place: Path, target: Path) -> None:
    adopt(target)
    before = tree(target)

    assert adopt(target) == "sd: already published"
    assert tree(target) == before


def test_the_folder_is_kept_until_it_is_pruned(place: Path, target: Path) -> None:
    adopt(target)
    (kept,) = [one for one in revisions(target) if one.startswith("unknown-")]
    assert file_names(target / ".revisions" / "sd" / kept) >= set(whole_repository())

    run_verb(Prune(target=target, keep=1))

    assert len(revisions(target)) == 1
    assert run_verb(Verify(target=target)) == "sd: intact"


def test_a_download_after_it_fetches_only_what_differs(place: Path, target: Path) -> None:
    adopt(target)
    inode = (place / "vae/config.json").stat().st_ino
    source = write_files(target.with_name("source"), whole_repository(seed=2))

    download(source, target)

    assert (place / "vae/config.json").stat().st_ino == inode
    assert Marker.read(place).source == source.as_uri()


def test_settings_of_another_download_do_not_matter(place: Path, job: Job) -> None:
    variables = {
        "DOWNLOADER_SPEC": "/etc/downloader/models.yaml",
        "DOWNLOADER_DENY_PATTERNS": "vae/*",
        "DOWNLOADER_SKIP_COMPONENTS": "safety_checker",
        "DOWNLOADER_SHA256": "0",
    }

    result = job.verb("adopt", **variables)

    assert result.returncode == 0, result.stderr
    assert file_names(place) == published_paths() | {MARKER_NAME}


def test_what_is_not_a_pipeline_is_refused_and_stays(target: Path) -> None:
    files = {"README.md": b"", "model.safetensors": b""}
    write_files(target / "sd", files)

    with pytest.raises(UnsuitableModelError, match="not a diffusers pipeline"):
        adopt(target)

    assert file_names(target / "sd") == set(files)
    assert leftovers(target) <= {"sd"}


def test_the_name_must_be_that_of_a_folder(target: Path) -> None:
    with pytest.raises(NotFoundError, match=r"models/sd: the folder does not exist"):
        adopt(target)
    with pytest.raises(InvalidSettingError, match="adopt requires a model name"):
        adopt(target, name="")
