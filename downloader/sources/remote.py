"""What a source offers: the files of one revision, and a way to fetch them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True)
class Digest:
    """What a file's contents must hash to, in hexadecimal.

    ``sha256`` is of the contents; ``git-blob`` is the SHA-1 that git gives to a blob of them.
    """

    algorithm: Literal["sha256", "git-blob"]
    value: str


@dataclass(frozen=True)
class RemoteFile:
    """One file as the source lists it: POSIX path, bytes, digest. The path is not yet trusted."""

    path: str
    size: int
    digest: Digest


class Source(Protocol):
    """A place that holds a model. Every method raises a ``SourceError`` where it fails."""

    @property
    def uri(self) -> str:
        """The source as asked for, written in one way only."""

    def resolve(self) -> str:
        """What the source stands at now: equal strings mean equal contents."""

    def list_files(self, revision: str) -> tuple[RemoteFile, ...]:
        """Every file of ``revision``."""

    def fetch(self, revision: str, paths: Sequence[str], into: Path) -> None:
        """Bring the files into a folder; those that a former run finished there may stay."""
