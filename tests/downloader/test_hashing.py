"""The three kinds of digests that sources list."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from downloader.hashing import Hashes, matches
from downloader.sources.remote import Digest, RemoteFile
from downloader.workers import Stop
from tests.downloader.hub_server import git_blob, sha256

CONTENT = b"Hello, World!"
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


def test_the_server_and_git_agree_on_a_blob() -> None:
    assert git_blob(CONTENT) == "b45ef6fec89518d314f546fd6c3025367b721684"


@pytest.mark.parametrize(
    "digest",
    [Digest("sha256", sha256(CONTENT)), Digest("git-blob", git_blob(CONTENT)), Digest("md5", MD5)],
    ids=lambda digest: digest.algorithm,
)
def test_contents_are_verified_and_their_sha256_is_always_known(
    tmp_path: Path, digest: Digest
) -> None:
    file = RemoteFile("a", len(CONTENT), digest)
    hashes = Hashes(file)
    for begin in range(0, len(CONTENT), 5):
        hashes.update(CONTENT[begin : begin + 5])
    assert (hashes.mismatch(), hashes.sha256) == ("", sha256(CONTENT))

    (tmp_path / "a").write_bytes(CONTENT)
    found = matches(tmp_path / "a", file, Stop())
    assert found is not None
    assert found.sha256 == sha256(CONTENT)


@pytest.mark.parametrize("content", [b"Hello, World?", CONTENT[:-1], b""])
def test_other_contents_do_not_match(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    file = RemoteFile("a", len(CONTENT), Digest("git-blob", git_blob(CONTENT)))
    assert matches(tmp_path / "a", file, Stop()) is None
    assert matches(tmp_path / "missing", file, Stop()) is None


def test_without_a_digest_nothing_matches(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    assert matches(tmp_path / "a", RemoteFile("a", len(CONTENT), None, "etag"), Stop()) is None
    assert Hashes(RemoteFile("a", 1, None)).mismatch() == ""


def test_a_mismatch_names_both_digests() -> None:
    hashes = Hashes(RemoteFile("a", 13, Digest("git-blob", "0" * 40)))
    hashes.update(CONTENT)
    assert hashes.mismatch() == (
        "has the git-blob digest b45ef6fec89518d314f546fd6c3025367b721684, "
        f"the source lists {'0' * 40}"
    )
