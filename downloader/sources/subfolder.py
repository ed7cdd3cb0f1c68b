"""A source that is one folder of another source, such as one of several ControlNets."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from downloader.errors import NotFoundError
from downloader.sources.remote import ByteStream, RemoteFile, Source


@dataclass(frozen=True)
class SubfolderSource:
    """The files of ``source`` below ``folder``, with paths relative to it."""

    source: Source
    folder: str

    @property
    def uri(self) -> str:
        """The source and the folder, for messages and the marker."""
        return f"{self.source.uri} (subfolder {self.folder})"

    def resolve(self) -> str:
        """The revision of the whole source."""
        return self.source.resolve()

    def list_files(self, revision: str) -> tuple[RemoteFile, ...]:
        """The files below the folder.

        Raises:
            NotFoundError: there are none.
        """
        prefix = f"{self.folder}/"
        found = tuple(
            replace(file, path=file.path.removeprefix(prefix))
            for file in self.source.list_files(revision)
            if file.path.startswith(prefix)
        )
        if not found:
            raise NotFoundError(f"{self.source.uri} has no folder {self.folder!r}")
        return found

    def open(
        self, revision: str, file: RemoteFile, offset: int, etag: str | None
    ) -> AbstractContextManager[ByteStream]:
        """See ``Source.open``."""
        whole = replace(file, path=f"{self.folder}/{file.path}")
        return self.source.open(revision, whole, offset, etag)
