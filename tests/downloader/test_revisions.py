"""Several revisions of a model: published, served, shared, rolled back, pruned."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from downloader.errors import InvalidSettingError, NotFoundError, StorageError
from downloader.settings import ListModels, Prune, Rollback
from downloader.verbs import run_verb
from modelstore import MARKER_NAME, Marker, ModelStore
from tests.downloader.pipeline_files import pipeline_files, safetensors, whole_repository
from tests.downloader.volume import download, leftovers, revisions, write_files

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_files(tmp_path / "source", pipeline_files())


def change(source: Path, seed: int) -> None:
    """Another revision: only the unet differs."""
    write_files(source, {UNET: safetensors(seed, 4096)})


def active(target: Path) -> str:
    revision = ModelStore(target).active("sd")
    assert revision is not None
    return revision


def rollback(target: Path, **given: object) -> str:
    return run_verb(Rollback(**{"name": "sd", "target": target, **given}))


def prune(target: Path, **given: object) -> str:
    return run_verb(Prune(**{"name": "sd", "target": target, **given}))


def test_the_name_is_a_relative_link_to_the_revision(source: Path, target: Path) -> None:
    report = download(source, target)

    link = (target / "sd").readlink()
    assert link == Path(".revisions/sd", active(target))
    assert active(target).startswith(report.marker.revision.removeprefix("sha256:")[:12])
    # A pod mounts the volume at another path.
    target.rename(target.with_name("elsewhere"))
    assert Marker.read(target.with_name("elsewhere") / "sd") == report.marker


def test_equal_specs_give_equal_revisions_and_others_do_not(source: Path, target: Path) -> None:
    download(source, target, name="one")
    download(source, target, name="two")
    download(source, target, name="three", variant="")
    download(source, target, name="four", deny_patterns="*.md")
    ids = [ModelStore(target).active(name) for name in ("one", "two", "three", "four")]

    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_readers_of_the_old_revision_are_undisturbed(source: Path, target: Path) -> None:
    download(source, target)
    mounted = (target / "sd").resolve()
    before = (mounted / UNET).read_bytes()
    change(source, 7)

    download(source, target)

    assert (mounted / UNET).read_bytes() == before
    Marker.read(mounted).check_sizes(mounted)
    assert (target / "sd" / UNET).read_bytes() == safetensors(7, 4096)
    assert len(revisions(target)) == 2


def test_a_reader_always_finds_a_complete_model_during_switches(source: Path, target: Path) -> None:
    download(source, target)
    change(source, 7)
    download(source, target)
    ended, failures, looks = threading.Event(), [], 0

    def look() -> None:
        nonlocal looks
        while not ended.is_set():
            folder = (target / "sd").resolve()
            marker = Marker.read(folder)
            if (folder / UNET).stat().st_size != 4096 + 80 and marker is None:
                failures.append(folder)
            looks += 1

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(30):
        rollback(target)
    ended.set()
    reader.join()

    assert looks > 30
    assert failures == []


def test_equal_files_of_revisions_are_one_file_on_the_disk(source: Path, target: Path) -> None:
    download(source, target)
    old = (target / "sd").resolve()
    change(source, 7)

    download(source, target)

    for path in pipeline_files():
        if path.endswith(".safetensors"):
            is_shared = (old / path).samefile(target / "sd" / path)
            assert is_shared == (path != UNET), path


def test_a_volume_without_hard_links_gets_copies(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError("hard links")

    download(source, target)
    old = (target / "sd").resolve()
    change(source, 7)
    monkeypatch.setattr(os, "link", refused)

    download(source, target)

    path = "vae/diffusion_pytorch_model.safetensors"
    assert not (old / path).samefile(target / "sd" / path)
    assert (old / path).read_bytes() == (target / "sd" / path).read_bytes()


def test_a_damaged_file_of_an_older_revision_is_not_reused(source: Path, target: Path) -> None:
    download(source, target)
    path = "vae/diffusion_pytorch_model.safetensors"
    write_files((target / "sd").resolve(), {path: safetensors(99)})
    change(source, 7)

    download(source, target)

    assert (target / "sd" / path).read_bytes() == pipeline_files()[path]


def test_a_rollback_switches_back_and_forth(source: Path, target: Path) -> None:
    download(source, target)
    first = active(target)
    change(source, 7)
    download(source, target)
    second = active(target)

    rollback(target)
    assert active(target) == first
    assert (target / "sd" / UNET).read_bytes() == pipeline_files()[UNET]
    rollback(target)
    assert active(target) == second
    rollback(target, revision=first)
    assert active(target) == first
    assert leftovers(target) == set()


def test_a_rolled_back_revision_is_served_again_without_a_fetch(source: Path, target: Path) -> None:
    download(source, target)
    change(source, 7)
    download(source, target)
    inode = (target / "sd" / UNET).stat().st_ino
    rollback(target)

    report = download(source, target)

    assert not report.was_published
    assert (target / "sd" / UNET).stat().st_ino == inode


def test_a_rollback_without_a_target_is_reported(source: Path, target: Path) -> None:
    download(source, target)
    with pytest.raises(NotFoundError, match="no complete revision other than"):
        rollback(target)
    with pytest.raises(NotFoundError, match="no complete revision 'gone'; others: none"):
        rollback(target, revision="gone")
    with pytest.raises(NotFoundError, match="has no model 'other'"):
        rollback(target, name="other")
    with pytest.raises(InvalidSettingError, match="requires a model name"):
        rollback(target, name="")


def test_prune_keeps_the_served_one_and_the_newest(source: Path, target: Path) -> None:
    ids = []
    for seed in range(4):
        change(source, 40 + seed)
        download(source, target)
        ids.append(active(target))
    rollback(target, revision=ids[0])

    assert prune(target, keep=2) == "2 revisions deleted"
    # ids[3] was served just before.
    assert revisions(target) == {ids[0], ids[3]}
    assert prune(target, keep=1) == "1 revisions deleted"
    assert revisions(target) == {ids[0]}
    assert active(target) == ids[0]
    assert leftovers(target) == set()
    Marker.read(target / "sd").check_sizes(target / "sd")


def test_prune_deletes_the_remains_of_killed_runs_of_any_name(target: Path, tmp_path: Path) -> None:
    write_files(target, {".staging/gone/1-2.dead/unet/x.partial": b"x", ".trash/a/b": b"x"})

    prune(target, name="")

    assert leftovers(target) == set()


def test_one_model_never_touches_the_files_of_another(source: Path, target: Path) -> None:
    # Names may share a prefix and contain dots.
    others = {".staging/.sd.v2.lease/owner": b"1", ".staging/sd.v2/1-2.owner/x.partial": b"x"}
    write_files(target, others | {".staging/.sd.lock": b"", ".staging/.sd.link": b""})

    download(source, target)
    prune(target)

    assert leftovers(target) == {".sd.v2.lease", "sd.v2"}


def test_the_list_names_every_revision(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    download(source, target)
    first = active(target)
    change(source, 7)
    download(source, target)
    write_files(target, {".revisions/sd/broken/x": b""})

    assert run_verb(ListModels(target=target)) == "3 revisions"

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"* sd  {active(target)}  ")
    assert lines[1].startswith(f"  sd  {first}  ")
    assert lines[2] == "  sd  broken  incomplete"


def plain_model(source: Path, target: Path) -> Path:
    """A model as the version without revisions published it."""
    download(source, target)
    place = target / "sd"
    folder = place.resolve()
    place.unlink()
    folder.rename(place)
    shutil.rmtree(target / ".revisions")
    return place


def test_a_plain_folder_of_an_older_version_counts_as_published(source: Path, target: Path) -> None:
    plain_model(source, target)
    assert download(source, target).was_published
    assert not (target / "sd").is_symlink()


def test_a_plain_folder_is_kept_as_a_revision_when_another_is_published(
    source: Path, target: Path
) -> None:
    place = plain_model(source, target)
    inode = (place / "vae/diffusion_pytorch_model.safetensors").stat().st_ino
    change(source, 7)

    download(source, target)

    assert place.is_symlink()
    assert (place / UNET).read_bytes() == safetensors(7, 4096)
    assert (place / "vae/diffusion_pytorch_model.safetensors").stat().st_ino == inode
    assert len(revisions(target)) == 2
    rollback(target)
    assert (place / UNET).read_bytes() == pipeline_files()[UNET]


def test_a_damaged_plain_folder_is_replaced_by_a_revision(source: Path, target: Path) -> None:
    place = plain_model(source, target)
    write_files(place, {"vae/diffusion_pytorch_model.safetensors": safetensors(99)})

    assert not download(source, target).was_published

    Marker.read(place).check_sizes(place)
    assert place.is_symlink()


def test_an_unknown_folder_in_place_of_the_link_is_not_deleted(source: Path, target: Path) -> None:
    write_files(target / "sd", {"precious.txt": b"by hand"})

    download(source, target)

    kept = [target / ".revisions" / "sd" / name for name in revisions(target)]
    assert [
        (path / "precious.txt").read_bytes() for path in kept if path.name != active(target)
    ] == [b"by hand"]


def test_a_revision_without_a_marker_is_rebuilt_from_its_files(source: Path, target: Path) -> None:
    download(source, target)
    inode = (target / "sd" / UNET).stat().st_ino
    (target / "sd" / MARKER_NAME).unlink()

    assert not download(source, target).was_published

    assert Marker.read(target / "sd").name == "sd"
    assert (target / "sd" / UNET).stat().st_ino == inode
    assert leftovers(target) == set()


def test_a_volume_without_links_says_what_to_do(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refused)
    with pytest.raises(StorageError, match=r"refuses symbolic links .*mfsymlinks"):
        download(source, target)


def test_whole_repository_has_a_variant(tmp_path: Path, target: Path) -> None:
    source = write_files(tmp_path / "source", whole_repository())
    assert download(source, target).marker.variant == "fp16"
