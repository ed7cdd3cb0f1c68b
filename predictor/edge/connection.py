"""One HTTP/1.1 connection: bounds on what a client may send and on how long it may take.

A subclass of the protocol class of uvicorn 0.54 for httptools. Uvicorn bounds neither the length
nor the time of a request. Uvicorn promises no stable interface here: check this module against the
source of a new version.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from predictor.edge.descriptors import most_connections
from predictor.edge.upgrade import head_without_upgrade

logger = logging.getLogger(__name__)

# The key of a request's scope for the status of a refusal that the application does not see.
REFUSED_STATUS = "predictor.refused_status"

# The request line and the headers; separately, the trailers, and each run of chunk extensions.
MAX_HEAD_BYTES = 65_536
# RFC 9112, section 3, recommends at least 8000.
MAX_URL_BYTES = 8_192
# The default of Envoy, https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/core/v3/protocol.proto
MAX_HEADERS = 100
# For the first byte of the first request, for the headers, and for each pause in the body.
READ_SECONDS = 20.0
# A body gets one more second for each of these.
_BODY_BYTES_PER_SECOND = 4_096
# How long to discard what a refused client still sends, so that it reads the response (RFC 9112,
# section 9.6).
_LINGER_SECONDS = 5.0
_RESET_POLL_SECONDS = 0.1


class BoundedConnection(HttpToolsProtocol):
    """Refuses requests that are too long, too slow or not valid; closes those connections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refusal = (400, "the request is not valid HTTP/1.1")
        # Nothing more is parsed: the connection ends with a response that is due, or is written.
        self._is_ended = False
        self._is_lingering = False
        # Received bytes that are neither part of a body nor of a complete head.
        self._unparsed_bytes = 0
        self._has_progress = False
        self._deadline: asyncio.TimerHandle | None = None
        self._made = self._began = self._received = 0.0
        self._body_bytes = 0
        self._timers: list[asyncio.TimerHandle] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Close the connection if too many are open, or later if no request arrives."""
        super().connection_made(transport)
        if len(self.connections) > (most := most_connections()):
            logger.warning("closed a new connection: %d are open already", most)
            self._is_ended = True
            transport.abort()
            return
        self._made = self.loop.time()
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        super().connection_lost(exc)
        self._stop_deadline()
        for timer in self._timers:
            timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse in pieces that fit into the bound, which keeps the work linear."""
        self._unset_keepalive_if_required()
        self._received = self.loop.time()
        position = 0
        while position < len(data) and not self._is_ended:
            piece = data[position : position + MAX_HEAD_BYTES - self._unparsed_bytes]
            position += len(piece)
            self._has_progress = False
            self._parse(piece)
            self._unparsed_bytes = 0 if self._has_progress else self._unparsed_bytes + len(piece)
            if self._unparsed_bytes >= MAX_HEAD_BYTES:
                reason = f"the request headers are longer than {MAX_HEAD_BYTES} bytes"
                self._refuse(431, reason)
        if not self._is_ended and self._deadline is None and self._is_answered():
            self._await_request()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep a connection whose client has sent its request and closed only its own side.

        A client that has left sends the same. It answers the next packet with a reset, so send an
        interim response, which other clients ignore (RFC 9110, section 15.2).
        """
        is_plain = self.transport.get_extra_info("sslcontext") is None
        if self._is_ended or self._is_answered() or self.cycle.more_body or not is_plain:
            return False
        if self.cycle.scope["http_version"] == "1.0" or self.cycle.response_started:
            # Interim responses are not allowed here, so assume that the client has left. A stream
            # may have nothing to send for minutes.
            return False
        self.cycle.keep_alive = False
        if not self.pipeline:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._poll_for_reset()
        return True

    def on_message_begin(self) -> None:
        """Start the clock of a request."""
        super().on_message_begin()
        self._began, self._body_bytes = self.loop.time(), 0
        self._stop_deadline()
        self._deadline = self.loop.call_later(READ_SECONDS, self._check_deadline)

    def on_url(self, url: bytes) -> None:
        """Bound the URL."""
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._raise_refusal(414, f"the URL is longer than {MAX_URL_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Bound the number of headers; ignore trailers: the request is already handled."""
        if self._is_in_body():
            return
        super().on_header(name, value)
        if name.lower() == b"transfer-encoding" and value.strip().lower() != b"chunked":
            self._raise_refusal(400, "the server supports no Transfer-Encoding except chunked")
        if len(self.headers) > MAX_HEADERS:
            self._raise_refusal(431, f"the request has more than {MAX_HEADERS} headers")

    def on_headers_complete(self) -> None:
        """Start to handle the request; one with ``Upgrade`` is parsed again without it."""
        self._has_progress = True
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            self.cycle.transport = _CycleTransport(self)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """Count the body, which buys time."""
        self._has_progress = True
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the clock."""
        if self.parser.should_upgrade():
            return
        self._has_progress = True
        self._stop_deadline()
        is_early = self.cycle.response_complete
        super().on_message_complete()
        if is_early:
            self.cycle.more_body = False

    def on_response_complete(self) -> None:
        """Start no further request once the connection ends."""
        if self._is_lingering:
            self.pipeline.clear()
        super().on_response_complete()

    def end(self) -> None:
        """Close the connection after a response, even if the client is still sending."""
        if self._deadline is None and not self._is_ended:
            self.transport.close()
        else:
            self._linger()

    def _parse(self, piece: bytes) -> None:
        rest = memoryview(piece)
        try:
            while rest and not self._is_ended:
                rest = self._parse_until_upgrade(rest)
        except httptools.HttpParserError:
            self._refuse(*self._refusal)

    def _parse_until_upgrade(self, data: memoryview) -> memoryview:
        """Parse up to the end of the first head with ``Upgrade``; return what follows it."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade()
            return data[upgrade.args[0] :]
        return data[:0]

    def _ignore_upgrade(self) -> None:
        """Parse the request again without ``Upgrade``, which a server may ignore.

        Java's HTTP client offers HTTP/2 this way with every request.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(400, "the server is not a proxy: it does not support CONNECT")
            return
        version = self.parser.get_http_version().encode()
        line = b"%s %s HTTP/%s" % (method, self.url, version)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(head_without_upgrade(line, self.headers))

    def _raise_refusal(self, status: int, reason: str) -> None:
        """End the parser's work from one of its callbacks."""
        self._refusal = (status, reason)
        raise ValueError(reason)

    def _refuse(self, status: int, reason: str) -> None:
        """Answer the request that is being read, and close the connection."""
        if self._is_ended:
            return
        logger.info("refused a request with %d: %s", status, reason)
        self._is_ended = True
        self._stop_deadline()
        is_in_body = self._is_in_body()
        if not self._is_answered() and not is_in_body:
            # The response to an earlier request is still due; the connection ends with it.
            self.cycle.keep_alive = False
        elif self.pipeline:
            self.transport.close()
        else:
            if not is_in_body or not self.cycle.response_started:
                self.transport.write(self._response(status, reason))
            if is_in_body:
                self.cycle.scope[REFUSED_STATUS] = status  # type: ignore[literal-required]
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self._linger()

    def _response(self, status: int, reason: str) -> bytes:
        body = json.dumps({"error": reason}).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        return STATUS_LINE[status] + lines + b"\r\n" + body

    def _linger(self) -> None:
        """Send what is written, and discard what arrives until the client closes its side."""
        self._is_ended = self._is_lingering = True
        self._stop_deadline()
        if not self._writes_eof():
            self.transport.close()
            return
        self.flow.resume_reading()
        self._timers.append(self.loop.call_later(_LINGER_SECONDS, self.transport.close))

    def _writes_eof(self) -> bool:
        """Close the own side; False over TLS, or if the client has reset the connection."""
        if not self.transport.can_write_eof():
            return False
        try:
            self.transport.write_eof()
        except OSError:
            return False
        return True

    def _check_deadline(self) -> None:
        """End a request that does not arrive in time: headers, pauses, and the rate of a body."""
        now = self.loop.time()
        if self.flow.read_paused:
            # The server does not read, so the client cannot send.
            self._began = self._received = now
        earned = 0.0 if self._is_answered() else self._body_bytes / _BODY_BYTES_PER_SECOND
        limit = READ_SECONDS + min(self._received, self._began + earned)
        if limit > now:
            self._deadline = self.loop.call_later(limit - now, self._check_deadline)
        else:
            self._refuse(408, f"the request was not complete after {READ_SECONDS:g} s of waiting")

    def _is_answered(self) -> bool:
        """Whether no response is due to a request whose headers are complete."""
        return self.cycle is None or self.cycle.response_complete

    def _is_in_body(self) -> bool:
        """Whether the headers of the request that is being read are complete."""
        return self.cycle is not None and self.cycle.scope is self.scope and self.cycle.more_body

    def _await_request(self) -> None:
        due = self.loop.time() + self.timeout_keep_alive
        if self.cycle is None:
            due = min(due, self._made + READ_SECONDS)
        self.timeout_keep_alive_task = self.loop.call_at(due, self.timeout_keep_alive_handler)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _poll_for_reset(self) -> None:
        """End the connection once the client resets it, which nothing else reports any more."""
        if self.transport.is_closing():
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self._timers = [self.loop.call_later(_RESET_POLL_SECONDS, self._poll_for_reset)]


class _CycleTransport:
    """The transport of one response, which leaves it to the connection how to close."""

    def __init__(self, connection: BoundedConnection) -> None:
        self._connection = connection

    def write(self, data: bytes) -> None:
        self._connection.transport.write(data)

    def is_closing(self) -> bool:
        return self._connection.transport.is_closing()

    def close(self) -> None:
        self._connection.end()
