"""A source that is one safetensors file on a web server, identified by its SHA-256."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2

from downloader.errors import DownloadError, NetworkError, NotAuthorisedError, NotFoundError
from downloader.sources.http import HttpClient
from downloader.sources.remote import ByteStream, Digest, RemoteFile
from downloader.spec import FileSpec


@dataclass(frozen=True)
class SingleFileSource:
    """The file at an address; no token is ever sent to it."""

    spec: FileSpec
    http: HttpClient

    @property
    def uri(self) -> str:
        """The address without its query, which may contain a secret."""
        return self.spec.uri

    def resolve(self) -> str:
        """The digest from the settings; sends no request."""
        return f"sha256:{self.spec.sha256}"

    def list_files(self, revision: str) -> tuple[RemoteFile, ...]:
        """The one file, with the size that the server reports."""
        digest = Digest("sha256", self.spec.sha256)
        return (RemoteFile(self.spec.file_name, self._size(), digest),)

    @contextmanager
    def open(
        self, revision: str, file: RemoteFile, offset: int, etag: str | None
    ) -> Iterator[ByteStream]:
        """See ``Source.open``."""
        with self.http.open(
            self.spec.url, file, offset, etag, headers={}, refused=self._refused
        ) as stream:
            yield stream

    def _size(self) -> int:
        # Not HEAD: addresses are often signed for GET only.
        with self.http.request(self.spec.url, {"Range": "bytes=0-0"}) as response:
            self.http.check_status(response, self._refused)
            found = re.fullmatch(
                r"bytes 0-0/([0-9]{1,18})", response.headers.get("Content-Range", "")
            )
            length = found[1] if found else response.headers.get("Content-Length", "")
        if not length.isdigit() or (response.status_code == 206 and not found):
            raise NetworkError(f"{self.uri}: the server does not report the size of the file")
        return int(length)

    def _refused(self, response: httpx2.Response) -> DownloadError:
        status = response.status_code
        if status in (401, 403):
            return NotAuthorisedError(f"{self.uri}: the server answered {status}")
        if status in (404, 410):
            return NotFoundError(f"{self.uri}: the file does not exist ({status})")
        return NetworkError(f"{self.uri}: the server answered {status}")
