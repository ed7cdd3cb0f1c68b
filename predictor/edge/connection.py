"""One HTTP/1.1 connection: bounds on what a client may send and on how long it may take.

A subclass of the protocol class of uvicorn 0.54 for httptools. Uvicorn bounds neither the length
nor the time of a request. Uvicorn promises no stable interface here: check this module against the
source of a new version.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from predictor.edge.descriptors import most_connections
from predictor.edge.half_close import ResetPoll, ResponseTransport, closes_own_side
from predictor.edge.read_clock import READ_SECONDS, ReadClock
from predictor.edge.silent_connections import SILENT
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
# Requests that wait for an earlier one on the same connection. The rest is parsed after responses.
MAX_PIPELINED = 32
# Bounds how many requests a piece adds to them.
_PIECE_BYTES = 2_048
# How long to discard what a refused client still sends, so that it reads the response (RFC 9112,
# section 9.6).
_LINGER_SECONDS = 5.0
_LATE = f"the request was not complete after {READ_SECONDS:g} s of waiting"


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
        self._made = 0.0
        self._clock = ReadClock(
            self.loop,
            is_paused=lambda: self.flow.read_paused,
            is_answered=self._is_answered,
            on_late=partial(self._refuse, 408, _LATE),
        )
        # Received bytes that are not parsed yet, because too many requests wait.
        self._held = b""
        # These end what the connection has started.
        self._stops: list[Callable[[], None]] = [self._clock.stop]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room if too many are open; close the connection later if no request arrives."""
        super().connection_made(transport)
        if len(self.connections) > (most := most_connections()):
            if not SILENT.close_oldest():
                logger.warning("closed a new connection: %d are open already", most)
                self._is_ended = True
                transport.abort()
                return
            logger.warning("closed the oldest silent connection: %d are open already", most)
        self._made = self.loop.time()
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        super().connection_lost(exc)
        SILENT.discard(self)
        for stop in self._stops:
            stop()

    def data_received(self, data: bytes) -> None:
        """Parse what the client sends, unless too many requests wait."""
        self._unset_keepalive_if_required()
        self._clock.note_data()
        self._held += data
        self._parse_held()
        if not self._is_ended and not self._clock.is_running and self._is_answered():
            self._await_request()

    def _parse_held(self) -> None:
        """Parse in pieces that fit into the bounds, which keeps the work linear."""
        data, position = self._held, 0
        while position < len(data) and not self._is_ended and len(self.pipeline) < MAX_PIPELINED:
            length = min(_PIECE_BYTES, MAX_HEAD_BYTES - self._unparsed_bytes)
            piece = data[position : position + length]
            position += len(piece)
            self._has_progress = False
            self._parse(piece)
            self._unparsed_bytes = 0 if self._has_progress else self._unparsed_bytes + len(piece)
            if self._unparsed_bytes >= MAX_HEAD_BYTES:
                reason = f"the request headers are longer than {MAX_HEAD_BYTES} bytes"
                self._refuse(431, reason)
        self._held = b"" if self._is_ended else data[position:]
        if self._held:
            self.flow.pause_reading()

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
        poll = ResetPoll(self.loop, self.transport)
        self._stops.append(poll.stop)
        poll.check()
        return True

    def on_message_begin(self) -> None:
        """Start the clock of a request."""
        super().on_message_begin()
        self._clock.begin()

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
            SILENT.discard(self)
            super().on_headers_complete()
            self.cycle.transport = ResponseTransport(self.transport, self.end)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """Count the body, which buys time."""
        self._has_progress = True
        self._clock.note_body(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the clock."""
        if self.parser.should_upgrade():
            return
        self._has_progress = True
        self._clock.stop()
        is_early = self.cycle.response_complete
        super().on_message_complete()
        if is_early:
            self.cycle.more_body = False

    def on_response_complete(self) -> None:
        """Start no further request once the connection ends."""
        if self._is_lingering:
            self.pipeline.clear()
        super().on_response_complete()
        if self._held and not self.transport.is_closing():
            self._parse_held()
        if self._is_answered() and not self._clock.is_running and not self.transport.is_closing():
            SILENT.add(self, is_new=False)

    def end(self) -> None:
        """Close the connection after a response, even if the client is still sending."""
        if not self._clock.is_running and not self._is_ended:
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
        head = head_without_upgrade(self.parser, self.url, self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(head)

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
        self._clock.stop()
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
        self._clock.stop()
        if not closes_own_side(self.transport):
            self.transport.close()
            return
        self.flow.resume_reading()
        self._stops.append(self.loop.call_later(_LINGER_SECONDS, self.transport.close).cancel)

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
        SILENT.add(self, is_new=self.cycle is None)
