"""Digests of a file, computed while its bytes arrive or from the disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

from downloader.sources.remote import RemoteFile
from downloader.workers import Stop

_CHUNK_BYTES = 1024 * 1024


class Hashes:
    """The SHA-256 of the contents, and the digest by which the source identifies the file."""

    def __init__(self, file: RemoteFile) -> None:
        self._digest = file.digest
        self._sha256 = hashlib.sha256()
        self._other = _other_hash(file)

    def update(self, chunk: bytes | memoryview) -> None:
        """Add the next bytes."""
        self._sha256.update(chunk)
        if self._other is not None:
            self._other.update(chunk)

    @property
    def sha256(self) -> str:
        """The SHA-256 in hexadecimal."""
        return self._sha256.hexdigest()

    def mismatch(self) -> str:
        """How the digest differs from the source's, as a clause; empty if it does not."""
        if self._digest is None:
            return ""
        found = self._other.hexdigest() if self._other is not None else self.sha256
        if found == self._digest.value:
            return ""
        algorithm = self._digest.algorithm
        return f"has the {algorithm} digest {found}, the source lists {self._digest.value}"


def hash_file(path: Path, file: RemoteFile, stop: Stop) -> Hashes:
    """The digests of the file at ``path``, read through one fixed buffer."""
    hashes = Hashes(file)
    with memoryview(bytearray(_CHUNK_BYTES)) as buffer, path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            stop.check()
            hashes.update(buffer[:count])
    return hashes


def sha256_of(path: Path, stop: Stop) -> str:
    """The SHA-256 of a file in hexadecimal."""
    return hash_file(path, RemoteFile("", 0, None), stop).sha256


def matches(path: Path, file: RemoteFile, stop: Stop) -> Hashes | None:
    """The digests of the file at ``path`` if they prove that it is ``file``, else None.

    A file whose source lists no digest never matches.
    """
    if file.digest is None or not path.is_file() or path.stat().st_size != file.size:
        return None
    hashes = hash_file(path, file, stop)
    return None if hashes.mismatch() else hashes


def _other_hash(file: RemoteFile) -> hashlib._Hash | None:
    if file.digest is None or file.digest.algorithm == "sha256":
        return None
    if file.digest.algorithm == "md5":
        return hashlib.md5(usedforsecurity=False)
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
