"""One HTTP/1.1 connection: bounds on the head of a request, on silence, and on their number.

A subclass of uvicorn's protocol class for httptools, which has none of these bounds. Uvicorn
promises no stable interface here: check this module against the source of a new version. Bodies
are bounded in ``service.py``.
"""

from __future__ import annotations

import asyncio
import json
import resource
from collections import deque
from contextlib import suppress
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

_UPGRADE = (b"connection", b"upgrade", b"http2-settings")
# As in the predictor.
MAX_HEAD_BYTES = 65_536
MAX_URL_BYTES = 8_192
MAX_HEADERS = 100
MAX_PIPELINED = 32
_PIECE_BYTES = 8_192
_MOST_CONNECTIONS = 10_000
# Descriptors for the storage, the predictors and the receivers of webhooks.
_RESERVE = 400
# A refused client may still send; it reads the response only if that is not answered by a reset.
_LINGER_SECONDS = 2.0


def raise_descriptor_limit() -> None:
    """Raise the soft limit to the hard one; some container runtimes set the soft one to 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_connections() -> int:
    """The number of connections that may be open at the same time."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return min(_MOST_CONNECTIONS, max(soft - _RESERVE, soft // 2))


class BoundedConnection(HttpToolsProtocol):
    """Refuses heads that are too long, too slow or not valid, and closes silent connections."""

    # For the first byte of a request, and for the rest of its head.
    head_seconds = 20.0
    most_connections = staticmethod(most_connections)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refusal = (400, "the request is not valid HTTP/1.1")
        self._timer: asyncio.TimerHandle | None = None
        # Received bytes that are neither part of a body nor of a complete head.
        self._unparsed_bytes = 0
        self._silent_since = 0.0
        # Requests without a complete response; uvicorn keeps the newest only.
        self._due: deque[RequestResponseCycle] = deque()
        self._has_progress = self._is_in_head = self._is_ended = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room if too many are open."""
        super().connection_made(transport)
        self._await(self.head_seconds)
        if len(self.connections) > self.most_connections():
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for cycle in self._due:
            cycle.disconnected = True
            cycle.message_event.set()
        self._stop_timer()

    def data_received(self, data: bytes) -> None:
        """Parse in pieces, so that no more than the bound is kept."""
        self._unset_keepalive_if_required()
        for start in range(0, len(data), _PIECE_BYTES):
            if self._is_ended or self.transport.is_closing():
                return
            piece = data[start : start + _PIECE_BYTES]
            self._has_progress = False
            self._parse(piece)
            self._unparsed_bytes = 0 if self._has_progress else self._unparsed_bytes + len(piece)
            if self._unparsed_bytes >= MAX_HEAD_BYTES:
                self._refuse(431, f"the request headers are longer than {MAX_HEAD_BYTES} bytes")
            elif len(self.pipeline) > MAX_PIPELINED:
                # The connection ends with the last response; the client repeats the rest.
                self._refuse(429, "too many requests on one connection")

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer a client that has sent its request and closed only its own side.

        A client that has left sends the same, so its connection stays open until the response.
        """
        if self._is_ended or self._is_silent() or self.cycle.more_body:
            return False
        # Once a response has begun, assume that the client has left: a stream may last for hours.
        if self._due[0].response_started:
            return False
        self.cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        self._await(self.head_seconds)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._refusal = (414, f"the URL is longer than {MAX_URL_BYTES} bytes")
            raise ValueError

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self._refusal = (431, f"the request has more than {MAX_HEADERS} headers")
            raise ValueError

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._has_progress, self._is_in_head = True, False
        self._stop_timer()
        super().on_headers_complete()
        self._due.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._has_progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._has_progress = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._due.popleft()
        super().on_response_complete()
        if self._is_silent() and not self._is_in_head and not self._is_ended:
            # Uvicorn's own timer ends with the next byte, even if that begins no request.
            self._await(self.timeout_keep_alive)

    def _parse(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(piece[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(*self._refusal)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse the head again without ``Upgrade``, which Java's HTTP client sends each time."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(400, "the server is not a proxy: it does not support CONNECT")
            return
        lines = [b"%s %s HTTP/1.1" % (method, self.url)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] not in _UPGRADE]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._parse(b"\r\n".join([*lines, b"", rest]))

    def _make_room(self) -> None:
        """Close the oldest silent connection, unless those that already close leave room."""
        known = (one for one in self.connections if isinstance(one, BoundedConnection))
        open_ones = [one for one in known if not one.transport.is_closing()]
        if len(open_ones) > self.most_connections():
            # Not those that a proxy keeps, if there are others.
            oldest = min(
                (one for one in open_ones if one._is_silent()),
                key=lambda one: (one.cycle is not None, one._silent_since),
            )
            oldest.transport.abort()

    def _is_silent(self) -> bool:
        """Whether no response is due."""
        return self.cycle is None or self.cycle.response_complete

    def _await(self, seconds: float) -> None:
        self._stop_timer()
        self._silent_since = self.loop.time()
        self._timer = self.loop.call_later(seconds, self._on_late)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _on_late(self) -> None:
        if self._is_in_head and not self._is_ended:
            self._refuse(408, f"the headers were not complete after {self.head_seconds:g} s")
        else:
            self.transport.close()

    def _refuse(self, status: int, reason: str) -> None:
        """Answer the request that is being read, and close the connection."""
        self._is_ended = True
        self._stop_timer()
        is_in_body = self.cycle is not None and self.cycle.more_body and not self._is_in_head
        if not self._is_silent() and not is_in_body:
            # The responses to earlier requests are due; the connection ends with the last one.
            self.cycle.keep_alive = False
        elif is_in_body and (self.cycle.response_started or self.pipeline):
            self.transport.close()
        else:
            self.transport.write(self._response(status, reason))
            if is_in_body:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            with suppress(OSError):
                self.transport.write_eof()
            self._await(_LINGER_SECONDS)

    def _response(self, status: int, reason: str) -> bytes:
        body = json.dumps({"error": reason}).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        return STATUS_LINE[status] + head % len(body) + body
