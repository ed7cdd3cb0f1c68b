"""Bytes of a file over HTTP from any offset on, and what each answer that is none means.

Ranges as in RFC 9110, section 14. ``httpx2`` drops the ``Authorization`` header where a redirect
leads to another origin, so a hub's token never reaches the network that delivers large files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime

import httpx2

from downloader.errors import CorruptFileError, DownloadError, NetworkError, TransientError
from downloader.sources.remote import ByteStream, RemoteFile

Refusal = Callable[[httpx2.Response], DownloadError]

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_RATE_LIMIT = re.compile(r";\s*t\s*=\s*(\d+)")
_FINAL = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, httpx2.TooManyRedirects)


class HttpClient:
    """One pool of connections for all files of a run."""

    def __init__(self, stall_seconds: float) -> None:
        self._client = httpx2.Client(
            follow_redirects=True,
            timeout=stall_seconds,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
        )

    def close(self) -> None:
        """Close every connection; a thread that still reads from one finds it broken."""
        self._client.close()

    @contextmanager
    def open(
        self,
        url: str,
        file: RemoteFile,
        offset: int,
        etag: str | None,
        *,
        headers: Mapping[str, str],
        refused: Refusal,
    ) -> Iterator[ByteStream]:
        """The bytes of ``file`` from ``offset`` on, or from 0 where the server has it so.

        ``etag`` is what the server called the bytes before ``offset``: it answers with the whole
        file if that has changed since. ``refused`` says what a 4xx means.

        Raises:
            TransientError: a try later may succeed.
            CorruptFileError: the server has a file of another size.
        """
        with self.request(url, {**headers, **_range(offset, etag)}) as response:
            if response.status_code == 416 and offset:
                raise RangeRefusedError(f"{_host(response)} has no bytes from {offset:,} on")
            check_status(response, refused)
            start = _check_length(response, file, offset)
            yield ByteStream(start, _chunks(response), _strong_etag(response))

    @contextmanager
    def request(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        """A GET whose body is not read yet."""
        # Compressed bytes have other offsets.
        request = self._client.build_request(
            "GET", url, headers={**headers, "Accept-Encoding": "identity"}
        )
        try:
            response = self._client.send(request, stream=True)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise not_reached(error, request.url.host) from error
        try:
            yield response
        finally:
            response.close()


class RangeRefusedError(TransientError):
    """The server has fewer bytes than were fetched already."""


def not_reached(error: Exception, host: str) -> NetworkError:
    """The error for a request without an answer; repeats no header and no address."""
    reason = type(error).__name__
    if isinstance(error, httpx2.ConnectError):
        reason += f": {error}"
    kind = NetworkError if isinstance(error, _FINAL) else TransientError
    return kind(f"{host} cannot be reached ({reason})")


def check_status(response: httpx2.Response, refused: Refusal) -> None:
    """See that the answer is one with contents.

    Raises:
        TransientError: overload, a failure of the server, or a limit of requests.
        DownloadError: what ``refused`` makes of a 4xx.
    """
    status = response.status_code
    if status in (200, 206):
        return
    if is_transient(status):
        raise TransientError(f"{_host(response)} answered {status}", retry_after(response.headers))
    if status == 412:
        raise CorruptFileError(f"a file changed at {_host(response)} while it was fetched")
    if status >= 400:
        raise refused(response)
    raise NetworkError(f"{_host(response)} answered {status}")


def is_transient(status: int) -> bool:
    """Whether the same request may be answered otherwise later."""
    return status in (408, 425, 429) or status >= 500


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: ``Retry-After`` (RFC 9110), else ``RateLimit``.

    A date is compared with the answer's own, so that this machine's clock may be wrong.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    try:
        delay = parsedate_to_datetime(value) - parsedate_to_datetime(headers["Date"])
        return max(0.0, delay.total_seconds())
    except (KeyError, TypeError, ValueError):
        limit = _RATE_LIMIT.search(headers.get("RateLimit", ""))
        return float(limit[1]) if limit else None


def _range(offset: int, etag: str | None) -> dict[str, str]:
    if not offset:
        return {}
    return {"Range": f"bytes={offset}-"} | ({"If-Range": etag} if etag else {})


def _check_length(response: httpx2.Response, file: RemoteFile, offset: int) -> int:
    """The offset of the first byte that comes."""
    start, total = 0, response.headers.get("Content-Length", "")
    if response.status_code == 206:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != offset:
            raise NetworkError(f"{_host(response)} answered with another range than was asked for")
        start, total = offset, found[2]
    if total.isdigit() and int(total) != file.size:
        raise CorruptFileError(
            f"{file.path} has {int(total):,} bytes at {_host(response)}, "
            f"the source lists {file.size:,}"
        )
    return start


def _chunks(response: httpx2.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_raw()
    except httpx2.HTTPError as error:
        raise TransientError(
            f"the connection to {_host(response)} broke ({type(error).__name__})"
        ) from error


def _strong_etag(response: httpx2.Response) -> str | None:
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else None


def _host(response: httpx2.Response) -> str:
    return str(response.url.host)
