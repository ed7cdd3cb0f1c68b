"""The digests of one file, made while its bytes pass by."""

from __future__ import annotations

import hashlib
from pathlib import Path

from downloader.sources.remote import Digest, RemoteFile
from downloader.workers import Stop

_CHUNK_BYTES = 1024 * 1024


class Hashes:
    """SHA-256 of the contents always, and what else the source knows the file by."""

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
        """In hexadecimal."""
        return self._sha256.hexdigest()

    def mismatch(self) -> str:
        """What differs from the source's digest, as a clause; empty where nothing does."""
        if self._digest is None:
            return ""
        found = self._other.hexdigest() if self._other is not None else self.sha256
        if found == self._digest.value:
            return ""
        algorithm = self._digest.algorithm
        return f"has the {algorithm} digest {found}, the source lists {self._digest.value}"


def hash_file(path: Path, file: RemoteFile, stop: Stop) -> Hashes:
    """The digests of what is on the disk, read with one fixed buffer."""
    hashes = Hashes(file)
    with memoryview(bytearray(_CHUNK_BYTES)) as buffer, path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            stop.check()
            hashes.update(buffer[:count])
    return hashes


def sha256_of(path: Path, stop: Stop) -> str:
    """SHA-256 of a file in hexadecimal."""
    return hash_file(path, RemoteFile("", 0, None), stop).sha256


def matches(path: Path, file: RemoteFile, stop: Stop) -> Hashes | None:
    """The digests of the file at ``path`` if they prove it to be ``file``, else None.

    Without a digest nothing proves it.
    """
    if file.digest is None or not path.is_file() or path.stat().st_size != file.size:
        return None
    hashes = hash_file(path, file, stop)
    return None if hashes.mismatch() else hashes


def _other_hash(file: RemoteFile) -> hashlib._Hash | None:
    digest: Digest | None = file.digest
    if digest is None or digest.algorithm == "sha256":
        return None
    if digest.algorithm == "md5":
        return hashlib.md5(usedforsecurity=False)
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
