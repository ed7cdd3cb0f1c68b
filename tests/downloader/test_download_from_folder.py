"""The downloader in this process: folders as sources, and failures of the volume."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from downloader.errors import (
    NoSpaceError,
    NotFoundError,
    SourceError,
    StorageError,
    UnsuitableModelError,
)
from modelstore import Marker
from tests.downloader.pipeline_files import pipeline_files, published_paths, whole_repository
from tests.downloader.volume import download, leftovers, write_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path / "source", whole_repository())


def test_a_folder_is_published_with_a_digest_as_its_revision(folder: Path, target: Path) -> None:
    report = download(folder, target)

    marker = Marker.read(target / "sd")
    assert report.marker == marker
    assert not report.was_published
    assert marker.source == folder.as_uri()
    assert marker.revision.startswith("sha256:")
    assert len(marker.revision) == len("sha256:") + 64
    assert {entry.path for entry in marker.files} == published_paths()
    assert leftovers(target) == set()


def test_equal_contents_are_already_published(folder: Path, target: Path, tmp_path: Path) -> None:
    download(folder, target)
    for path in folder.rglob("*"):
        path.touch()
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("hidden files are not contents")

    report = download(folder, target)

    assert report.was_published
    assert str(report).endswith("already published")


def test_a_changed_byte_is_another_revision(folder: Path, target: Path) -> None:
    download(folder, target)
    write_files(folder, {"unet/config.json": b"[]"})

    assert not download(folder, target).was_published
    assert (target / "sd" / "unet" / "config.json").read_bytes() == b"[]"


@pytest.mark.parametrize(
    "path",
    ["unet/diffusion_pytorch_model.fp16.safetensors", "tokenizer/vocab.json", "model_index.json"],
)
def test_a_pointer_of_git_lfs_is_named(folder: Path, target: Path, path: str) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n"
    write_files(folder, {path: pointer})

    with pytest.raises(UnsuitableModelError) as caught:
        download(folder, target)

    assert f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull`" in str(
        caught.value
    )
    assert not (target / "sd").exists()


def test_another_variant_replaces_the_published_one(folder: Path, target: Path) -> None:
    download(folder, target)

    assert download(folder, target, variant="").marker.variant is None

    marker = Marker.read(target / "sd")
    assert {entry.path for entry in marker.files} == set(pipeline_files())
    assert download(folder, target, variant="").was_published


def test_linked_files_are_copied(folder: Path, target: Path, tmp_path: Path) -> None:
    # As in a hub's cache, where a snapshot consists of links to blobs.
    snapshot = tmp_path / "snapshot"
    for path in (path for path in folder.rglob("*") if path.is_file()):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)

    download(snapshot, target)
    shutil.rmtree(folder)

    Marker.read(target / "sd").check_sizes(target / "sd")
    assert not any(path.is_symlink() for path in (target / "sd").rglob("*"))


def test_two_names_lie_side_by_side(folder: Path, target: Path) -> None:
    download(folder, target, name="one")
    download(folder, target, name="two")
    assert {path.name for path in target.iterdir()} == {"one", "two", ".revisions", ".staging"}


def test_a_missing_folder_is_named(target: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="the folder does not exist"):
        download(tmp_path / "nothing", target)


def test_a_too_small_volume_is_reported_in_bytes(
    folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10_000, 9_000, 1_000))

    size = sum(len(whole_repository()[path]) for path in published_paths())
    with pytest.raises(NoSpaceError, match=f"needs {size:,} bytes more and has 1,000 bytes free"):
        download(folder, target)

    assert not (target / "sd").exists()


def test_a_missing_target_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"unmounted.*No such file or directory"):
        download(folder, tmp_path / "unmounted")


def test_a_target_that_is_a_file_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Not a directory"):
        download(folder, tmp_path / "file")


def test_no_framework_is_imported(target: Path, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", pipeline_files())
    script = (
        "import sys, downloader.__main__ as d; code = d.main();"
        "heavy = {'torch', 'diffusers', 'transformers', 'predictor'} & set(sys.modules);"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    flags = ["--source", source.as_uri(), "--name", "sd", "--target", str(target)]
    result = subprocess.run(
        [sys.executable, "-c", script, *flags],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert Marker.read(target / "sd").name == "sd"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(folder: Path, target: Path) -> None:
    unreadable = folder / "vae" / "config.json"
    unreadable.chmod(0)

    with pytest.raises(SourceError, match=r"vae/config\.json: Permission denied"):
        download(folder, target)


def test_a_source_that_fails_during_the_read_is_one_sentence(
    folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(*_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", "vae/config.json")

    monkeypatch.setattr(hashlib, "file_digest", stale)

    with pytest.raises(SourceError, match=r"vae/config\.json: Stale file handle"):
        download(folder, target)
    assert not (target / "sd").exists()


def test_an_empty_folder_from_an_early_pod_is_not_a_model(folder: Path, target: Path) -> None:
    (target / "sd").mkdir()

    report = download(folder, target)

    assert not report.was_published
    assert Marker.read(target / "sd") == report.marker
