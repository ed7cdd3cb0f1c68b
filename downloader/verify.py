"""Proof that the fetched files are the listed ones; each file is read once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from downloader.errors import CorruptFileError
from downloader.sources import RemoteFile
from modelstore import FileEntry

_CHUNK_BYTES = 4 * 1024 * 1024


def verify(folder: Path, files: Iterable[RemoteFile]) -> tuple[FileEntry, ...]:
    """Compare sizes and digests, and return what the marker lists.

    Raises:
        CorruptFileError: the first file that differs; it is deleted and so fetched by the next run.
    """
    return tuple(_verify_file(folder / file.path, file) for file in files)


def _verify_file(path: Path, file: RemoteFile) -> FileEntry:
    size = path.stat().st_size
    if size != file.size:
        path.unlink()
        raise CorruptFileError(f"{file.path} has {size:,} bytes, the source lists {file.size:,}")
    sha256, git_blob = _digests(path, size)
    found = sha256 if file.digest.algorithm == "sha256" else git_blob
    if found != file.digest.value:
        path.unlink()
        raise CorruptFileError(
            f"{file.path} has the {file.digest.algorithm} digest {found}, "
            f"the source lists {file.digest.value}"
        )
    return FileEntry(file.path, size, sha256)


def _digests(path: Path, size: int) -> tuple[str, str]:
    """SHA-256 of the contents, and the SHA-1 that git gives to a blob of them."""
    sha256 = hashlib.sha256()
    git_blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            sha256.update(chunk)
            git_blob.update(chunk)
    return sha256.hexdigest(), git_blob.hexdigest()
