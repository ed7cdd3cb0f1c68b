"""What a source offers: the files of one revision, and the bytes of each from any offset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

Algorithm = Literal["sha256", "git-blob", "md5"]

# Configurations, vocabularies, merges, sentencepiece models, chat templates; weights.
SMALL_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja"})
FETCHED_SUFFIXES = SMALL_SUFFIXES | {".safetensors"}


@dataclass(frozen=True)
class Digest:
    """The expected hash of a file, in hexadecimal.

    ``sha256`` and ``md5`` are hashes of the contents; ``git-blob`` is the SHA-1 that git gives to a
    blob with these contents.
    """

    algorithm: Algorithm
    value: str


@dataclass(frozen=True)
class RemoteFile:
    """One file as the source lists it: POSIX path, bytes, digest. The path is not yet trusted.

    ``etag`` identifies the contents where the source has no digest.
    """

    path: str
    size: int
    digest: Digest | None
    etag: str | None = None

    @property
    def version(self) -> str:
        """Equal for equal contents; bytes of two versions are never joined."""
        return self.digest.value if self.digest else self.etag or "unknown"


@dataclass(frozen=True)
class ByteStream:
    """The bytes of a file from ``offset`` on, in chunks of at most 1 MiB.

    ``offset`` is 0 if the server does not support ranges or the file has changed. ``etag`` is the
    server's ETag of the contents.
    """

    offset: int
    chunks: Iterator[bytes]
    etag: str | None = None


class Source(Protocol):
    """A place that holds files. Every method raises a ``SourceError`` when it fails."""

    @property
    def uri(self) -> str:
        """The source as requested, in its canonical form."""

    def resolve(self) -> str:
        """The current revision: equal strings mean equal contents."""

    def list_files(self, revision: str) -> tuple[RemoteFile, ...]:
        """Every file of ``revision``."""

    def open(
        self, revision: str, file: RemoteFile, offset: int, etag: str | None
    ) -> AbstractContextManager[ByteStream]:
        """The bytes from ``offset`` on; ``etag`` is that of the bytes before ``offset``.

        Raises:
            TransientError: another attempt may succeed; iterating the stream raises it too.
        """
