"""A small file into memory: what a plan must read before anything is fetched."""

from __future__ import annotations

from downloader.errors import CorruptFileError, TransientError, UnsuitableModelError
from downloader.hashing import Hashes
from downloader.sources.remote import RemoteFile, Source
from downloader.sources.retry import Retries, with_retries

_LARGEST_BYTES = 4 * 1024 * 1024


def read_small(source: Source, revision: str, file: RemoteFile, retries: Retries) -> bytes:
    """The contents of ``file``, proved by its digest.

    Raises:
        CorruptFileError: they are not what the source lists.
        SourceError: they cannot be had.
    """
    if file.size > _LARGEST_BYTES:
        raise UnsuitableModelError(f"{file.path} has {file.size:,} bytes, which is no index")
    content = with_retries(lambda: _read(source, revision, file), retries)
    hashes = Hashes(file)
    hashes.update(content)
    mismatch = hashes.mismatch()
    if mismatch:
        raise CorruptFileError(f"{file.path} {mismatch}")
    return content


def _read(source: Source, revision: str, file: RemoteFile) -> bytes:
    content = bytearray()
    with source.open(revision, file, 0, None) as stream:
        for chunk in stream.chunks:
            content += chunk
            if len(content) > file.size:
                raise CorruptFileError(f"{file.path} has more than {file.size:,} bytes")
    if len(content) < file.size:
        raise TransientError(f"{file.path} ended after {len(content):,} bytes")
    return bytes(content)
