"""Sizes and digests; the two ways a hub names contents."""

from __future__ import annotations

from pathlib import Path

import pytest

from downloader.errors import CorruptFileError
from downloader.sources import Digest, RemoteFile
from downloader.verify import verify
from modelstore import FileEntry
from tests.downloader.hub_server import git_blob, sha256

CONTENT = b"Hello, World!"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "vae" / "config.json"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


def test_the_server_and_git_agree_on_a_blob() -> None:
    assert git_blob(CONTENT) == "b45ef6fec89518d314f546fd6c3025367b721684"


@pytest.mark.parametrize(
    "digest", [Digest("sha256", sha256(CONTENT)), Digest("git-blob", git_blob(CONTENT))]
)
def test_what_is_listed_becomes_an_entry(tmp_path: Path, file: Path, digest: Digest) -> None:
    remote = RemoteFile("vae/config.json", len(CONTENT), digest)
    entry = FileEntry("vae/config.json", len(CONTENT), sha256(CONTENT))
    assert verify(tmp_path, [remote]) == (entry,)


@pytest.mark.parametrize(
    ("size", "digest", "reason"),
    [
        (14, Digest("sha256", sha256(CONTENT)), "has 13 bytes, the source lists 14"),
        (13, Digest("sha256", "0" * 64), "the source lists 0000"),
        (13, Digest("git-blob", "0" * 40), "git-blob digest b45ef6"),
    ],
    ids=["size", "sha256", "git blob"],
)
def test_what_differs_is_deleted(
    tmp_path: Path, file: Path, size: int, digest: Digest, reason: str
) -> None:
    with pytest.raises(CorruptFileError, match=reason):
        verify(tmp_path, [RemoteFile("vae/config.json", size, digest)])
    assert not file.exists()
