"""What a source offers: the files of one revision, and the bytes of each from any offset on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

Algorithm = Literal["sha256", "git-blob", "md5"]


@dataclass(frozen=True)
class Digest:
    """What a file's contents must hash to, in hexadecimal.

    ``sha256`` and ``md5`` are of the contents; ``git-blob`` is the SHA-1 that git gives to a blob
    of them.
    """

    algorithm: Algorithm
    value: str


@dataclass(frozen=True)
class RemoteFile:
    """One file as the source lists it: POSIX path, bytes, digest. The path is not yet trusted.

    ``etag`` stands for the contents where the source knows no digest of them.
    """

    path: str
    size: int
    digest: Digest | None
    etag: str | None = None

    @property
    def version(self) -> str:
        """Equal for equal contents; bytes of two versions are never put together."""
        return self.digest.value if self.digest else self.etag or "unknown"


@dataclass(frozen=True)
class ByteStream:
    """The bytes of a file from ``offset`` on, in chunks of at most 1 MiB.

    ``offset`` is 0 where the server does not give ranges, or has another file by now. ``etag`` is
    the server's own name for what it sends.
    """

    offset: int
    chunks: Iterator[bytes]
    etag: str | None = None


class Source(Protocol):
    """A place that holds files. Every method raises a ``SourceError`` where it fails."""

    @property
    def uri(self) -> str:
        """The source as asked for, written in one way only."""

    def resolve(self) -> str:
        """What the source stands at now: equal strings mean equal contents."""

    def list_files(self, revision: str) -> tuple[RemoteFile, ...]:
        """Every file of ``revision``."""

    def open(
        self, revision: str, file: RemoteFile, offset: int, etag: str | None
    ) -> AbstractContextManager[ByteStream]:
        """The bytes from ``offset`` on; ``etag`` is what the server said of those before.

        Raises:
            TransientError: it is worth another try; a stream's iteration raises it too.
        """
