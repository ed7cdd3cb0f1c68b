"""A source that is a local folder: a mounted share, a mounted bucket, a checkout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path

from downloader.errors import NotFoundError, SourceError
from downloader.sources.remote import ByteStream, Digest, RemoteFile
from downloader.spec import FolderSpec

_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class FolderSource:
    """The files of a folder, without hidden files and folders (``.git``, a marker)."""

    spec: FolderSpec

    @property
    def uri(self) -> str:
        """The folder's file URI."""
        return self.spec.uri

    def resolve(self) -> str:
        """A digest of all paths, sizes and contents: equal contents are the same revision."""
        lines = (f"{file.path}\0{file.size}\0{file.version}\n" for file in self._files)
        return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()

    def list_files(self, revision: str) -> tuple[RemoteFile, ...]:
        """The files as they were when ``resolve`` read them."""
        return self._files

    @contextmanager
    def open(
        self, revision: str, file: RemoteFile, offset: int, etag: str | None
    ) -> Iterator[ByteStream]:
        """Read a file; its digest reveals a change since ``resolve``."""
        try:
            stream = (self.spec.path / file.path).open("rb", buffering=0)
        except OSError as error:
            raise self._unreadable(error) from error
        with stream:
            stream.seek(offset)
            yield ByteStream(offset, self._chunks(stream))

    def _chunks(self, stream: FileIO) -> Iterator[bytes]:
        try:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk
        except OSError as error:
            raise self._unreadable(error) from error

    @cached_property
    def _files(self) -> tuple[RemoteFile, ...]:
        if not self.spec.path.is_dir():
            raise NotFoundError(f"{self.uri}: the folder does not exist")
        try:
            return tuple(self._read(path) for path in sorted(_visible_files(self.spec.path)))
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> SourceError:
        return SourceError(f"{self.uri}: {error.filename or 'a file'}: {error.strerror}")

    def _read(self, path: Path) -> RemoteFile:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
        name = path.relative_to(self.spec.path).as_posix()
        return RemoteFile(name, size, Digest("sha256", digest))


def _visible_files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        # Links to files are followed, as a hub's cache consists of them; links to folders may loop.
        if path.is_dir() and not path.is_symlink():
            yield from _visible_files(path)
        elif path.is_file():
            yield path
