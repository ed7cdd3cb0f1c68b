"""A source that is a repository on a Hugging Face hub.

``huggingface_hub`` resolves, lists, builds addresses and headers, and classifies errors. Our own
HTTP client fetches the bytes, because the library restarts a partial file after a kill. Files in
the hub's Xet storage come over plain HTTP too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial

import httpx2
from huggingface_hub import HfApi, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils._headers import build_hf_headers

from downloader.errors import DownloadError, NetworkError, TransientError
from downloader.sources.access import Access
from downloader.sources.hub_errors import HUB_ERRORS, translated
from downloader.sources.hub_listing import HubListing
from downloader.sources.remote import ByteStream, RemoteFile
from downloader.spec import HubSpec


@dataclass(frozen=True)
class HubSource:
    """One revision of one repository."""

    spec: HubSpec
    access: Access

    @property
    def uri(self) -> str:
        """The repository and the requested revision."""
        return self.spec.uri

    def resolve(self) -> str:
        """The commit of the branch or tag; sends no request if the spec names a commit."""
        if self.spec.is_pinned:
            return self.spec.revision
        with self._errors():
            info = self._api.model_info(
                self.spec.repository,
                revision=self.spec.revision,
                timeout=self.access.settings.stall_seconds,
            )
            if not re.fullmatch(r"[0-9A-Za-z]{1,64}", info.sha or ""):
                raise ValueError("the hub names no commit")
        return str(info.sha)

    def list_files(self, revision: str) -> tuple[RemoteFile, ...]:
        """Every file of the commit ``revision``."""
        listing = HubListing(self._api, self.access.settings, self.spec.repository, revision)
        with self._errors():
            return listing.files()

    @contextmanager
    def open(
        self, revision: str, file: RemoteFile, offset: int, etag: str | None
    ) -> Iterator[ByteStream]:
        """See ``Source.open``; asks the hub each time, because signed addresses expire."""
        endpoint = self._api.endpoint
        url = hf_hub_url(self.spec.repository, file.path, revision=revision, endpoint=endpoint)
        if file.digest is None and etag is None and file.etag:
            etag = f'"{file.etag}"'  # of the bytes that an earlier run fetched
        refused = partial(self._refused, path=file.path)
        with self.access.http.open(
            url, file, offset, etag, headers=self._headers, refused=refused
        ) as stream:
            yield stream

    @cached_property
    def _api(self) -> HfApi:
        # Its warnings contain signed addresses.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        # The library sets no timeout.
        get_session().timeout = httpx2.Timeout(self.access.settings.stall_seconds)
        return HfApi(token=self.access.token or False)

    @cached_property
    def _headers(self) -> dict[str, str]:
        return dict(build_hf_headers(token=self.access.token or False))

    def _refused(self, response: httpx2.Response, path: str = "") -> DownloadError:
        if not _is_below(httpx2.URL(self._api.endpoint), response.url):
            # The network that delivers large files: its addresses expire; the hub issues new ones.
            host = response.url.host
            return TransientError(f"{self.uri}: {host} answered {response.status_code}")
        try:
            hf_raise_for_status(response)
        except HfHubHTTPError as error:
            return self._translated(error, path)
        return NetworkError(f"{self.uri}: the hub answered {response.status_code}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except HUB_ERRORS as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception, path: str = "") -> DownloadError:
        return translated(error, self.spec, self._api.endpoint, self.access.token, path)


def _is_below(endpoint: httpx2.URL, url: httpx2.URL) -> bool:
    """Whether ``url`` has the origin of ``endpoint``, and a path below that of ``endpoint``."""
    same_origin = (url.scheme, url.host, url.port) == (
        endpoint.scheme,
        endpoint.host,
        endpoint.port,
    )
    return same_origin and url.path.startswith(f"{endpoint.path.rstrip('/')}/")
