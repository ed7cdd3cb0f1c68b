"""The bytes of a file over HTTP from any offset, and the error for each failed response.

Ranges as in RFC 9110, section 14. ``httpx2`` drops the ``Authorization`` header on a
redirect to another origin, so a hub's token never reaches the network that delivers large files.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime

import httpx2

from downloader.errors import CorruptFileError, DownloadError, NetworkError, TransientError
from downloader.sources.network_variables import proxy_variable
from downloader.sources.remote import ByteStream, RemoteFile

ErrorFromResponse = Callable[[httpx2.Response], DownloadError]

# At most 18 digits: a longer number is not a size, and ``int`` refuses very long ones.
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")
_RATE_LIMIT = re.compile(r";\s*t\s*=\s*([0-9]+)")
_DIGITS = re.compile(r"[0-9]+")
# A connection that brings less than this in ``stall_seconds`` is as useless as a silent one.
_STALL_BYTES = 64 * 1024
_LARGEST_REFUSAL_BYTES = 64 * 1024
_OF_THE_BODY = ("content-encoding", "content-length", "transfer-encoding")
_FINAL = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)


class HttpClient:
    """The connection pool of a run."""

    def __init__(self, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._client = httpx2.Client(
            follow_redirects=True,
            timeout=stall_seconds,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
        )

    def close(self) -> None:
        """Close every connection; a thread that still reads from one gets an error."""
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
        refused: ErrorFromResponse,
    ) -> Iterator[ByteStream]:
        """The bytes of ``file`` from ``offset`` on, or from 0 if the server sends the whole file.

        ``etag`` is the ETag of the bytes before ``offset``: the server sends the whole file if it
        has changed since. ``refused`` maps a 4xx response to an error.

        Raises:
            TransientError: a later attempt may succeed.
            CorruptFileError: the file on the server has another size.
        """
        with self.request(url, {**headers, **_range(offset, etag)}) as response:
            if response.status_code == 416 and offset:
                raise RangeRefusedError(f"{_host(response)} has no bytes after offset {offset:,}")
            self.check_status(response, refused)
            start = _check_length(response, file, offset)
            found = _strong_etag(response)
            if start and file.digest is None and etag and found and found != etag:
                # No digest would reveal a mixture of two versions.
                raise RangeRefusedError(f"{file.path} at {_host(response)} has changed")
            yield ByteStream(start, self._chunks(response), found)

    @contextmanager
    def request(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        """A GET response whose body has not been read."""
        # Offsets refer to uncompressed bytes.
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

    def check_status(self, response: httpx2.Response, refused: ErrorFromResponse) -> None:
        """Check that the response has contents.

        Raises:
            TransientError: the server is overloaded, fails, limits the request rate, or breaks the
                connection during its refusal.
            DownloadError: the error that ``refused`` returns for a 4xx, whose body has been read.
        """
        status = response.status_code
        if status in (200, 206):
            return
        if is_transient(status):
            raise TransientError(
                f"{_host(response)} answered {status}", retry_after(response.headers)
            )
        if status == 412:
            raise CorruptFileError(f"a file at {_host(response)} changed during the download")
        if status >= 400:
            raise refused(self._with_start_of_body(response))
        raise NetworkError(f"{_host(response)} answered {status}")

    def _with_start_of_body(self, response: httpx2.Response) -> httpx2.Response:
        body = bytearray()
        for chunk in self._chunks(response):
            body += chunk
            if len(body) >= _LARGEST_REFUSAL_BYTES:
                break
        headers = [item for item in response.headers.multi_items() if item[0] not in _OF_THE_BODY]
        return httpx2.Response(
            response.status_code, headers=headers, content=bytes(body), request=response.request
        )

    def _chunks(self, response: httpx2.Response) -> Iterator[bytes]:
        """The body, decompressed.

        Raises:
            TransientError: the connection breaks, is silent, or brings too few bytes.
        """
        waited, count = 0.0, 0
        chunks = response.iter_bytes() if _is_compressed(response) else response.iter_raw()
        try:
            asked = time.monotonic()
            for chunk in chunks:
                # Only the time of the network counts, not that of the volume.
                waited, count = waited + time.monotonic() - asked, count + len(chunk)
                yield chunk
                if count >= _STALL_BYTES:
                    waited, count = 0.0, 0
                elif waited > self._stall_seconds:
                    raise TransientError(
                        f"{_host(response)} sent only {count:,} bytes in {waited:.0f} s"
                    )
                asked = time.monotonic()
        except httpx2.HTTPError as error:
            raise TransientError(
                f"the connection to {_host(response)} broke ({type(error).__name__})"
            ) from error


class RangeRefusedError(TransientError):
    """The server cannot continue the bytes that are already fetched."""


def not_reached(error: Exception, host: str) -> NetworkError:
    """The error for a request without a response; contains no header and no address."""
    if isinstance(error, httpx2.TooManyRedirects):
        return NetworkError(f"{host} redirects in a loop")
    reason = type(error).__name__
    if isinstance(error, httpx2.ConnectError):
        reason += f": {error}"
    kind = NetworkError if isinstance(error, _FINAL) else TransientError
    return kind(f"{host} cannot be reached{_through_proxy(error, host)} ({reason})")


def _through_proxy(error: Exception, host: str) -> str:
    if not isinstance(error, httpx2.RequestError):
        return ""
    variable = proxy_variable(error.request.url.scheme, host)
    return f" through the proxy that {variable} sets" if variable else ""


def is_transient(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status in (408, 425, 429) or status >= 500


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The pause in seconds that the server requests by ``Retry-After`` (RFC 9110) or ``RateLimit``.

    A date is compared with the response's own ``Date``, so the local clock does not matter.
    """
    value = headers.get("Retry-After", "").strip()
    if _DIGITS.fullmatch(value):
        return float(value)
    try:
        delay = parsedate_to_datetime(value) - parsedate_to_datetime(headers["Date"])
        return max(0.0, delay.total_seconds())
    except (KeyError, TypeError, ValueError, OverflowError):
        limit = _RATE_LIMIT.search(headers.get("RateLimit", ""))
        return float(limit[1]) if limit else None


def _range(offset: int, etag: str | None) -> dict[str, str]:
    if not offset:
        return {}
    return {"Range": f"bytes={offset}-"} | ({"If-Range": etag} if etag else {})


def _check_length(response: httpx2.Response, file: RemoteFile, offset: int) -> int:
    """The offset of the first byte of the body."""
    start, total = 0, response.headers.get("Content-Length", "")
    if _is_compressed(response):
        # The length is that of the compressed bytes, and so would be the offsets of a range.
        if offset and response.status_code == 206:
            raise RangeRefusedError(f"{_host(response)} answered with a compressed range")
        total = ""
    elif response.status_code == 206:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != offset:
            # Without a range in the request there is nothing to fall back to.
            kind = RangeRefusedError if offset else TransientError
            raise kind(f"{_host(response)} answered with a range that was not requested")
        start, total = offset, found[2]
    is_page = response.headers.get("Content-Type", "").lower().startswith("text/html")
    if is_page and total != str(file.size):
        raise TransientError(f"{_host(response)} answered with a web page in place of {file.path}")
    if total.isdigit() and int(total) != file.size:
        raise CorruptFileError(
            f"{file.path} has {int(total):,} bytes at {_host(response)}, "
            f"the source lists {file.size:,}"
        )
    return start


def _is_compressed(response: httpx2.Response) -> bool:
    """Whether the server compressed the body although the request forbids it."""
    encodings = response.headers.get("Content-Encoding", "").lower().split(",")
    return any(each.strip() not in ("", "identity") for each in encodings)


def _strong_etag(response: httpx2.Response) -> str | None:
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else None


def _host(response: httpx2.Response) -> str:
    return str(response.url.host)
