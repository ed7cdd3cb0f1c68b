"""Shutdown: close connections in order, and leave no request without a response."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from predictor.edge.error_responses import (
    error_event_data,
    note_error,
    response_to,
    status_of,
)
from predictor.edge.stream import LastEvent
from predictor.errors import ShuttingDownError
from predictor.protocol.accept import EVENT_STREAM
from predictor.protocol.encode import error_event

_POLL_SECONDS = 0.05


class Drain:
    """The requests in flight, and whether they may finish.

    Used on the event loop only. While ``is_draining``, responses close their connections, so that
    clients reconnect to another pod.
    """

    def __init__(self) -> None:
        self.is_draining = False
        self.is_cut = False
        self._handlers: set[asyncio.Task[object]] = set()
        self._last_end = -math.inf

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Register the current task as the handler of a request."""
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        try:
            yield
        finally:
            self._handlers.discard(handler)
            self._last_end = asyncio.get_running_loop().time()

    async def wait_until_quiet(
        self, has_connections: Callable[[], bool], quiet_seconds: float = math.inf
    ) -> None:
        """Wait until no connection is open, or no request was in flight for ``quiet_seconds``."""
        now = asyncio.get_running_loop().time
        began = now()
        while has_connections() and (  # noqa: ASYNC110 - uvicorn has no event for this
            self._handlers or now() < max(began, self._last_end) + quiet_seconds
        ):
            await asyncio.sleep(_POLL_SECONDS)

    def cut(self) -> int:
        """Fail all current and future requests; return how many were in flight."""
        self.is_cut = True
        for handler in self._handlers:
            handler.cancel()
        return len(self._handlers)


class DrainMiddleware:
    """Close connections while the server drains, and answer requests that are cut with 503.

    It wraps the whole application, so that unexpected errors close their connections too.
    """

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request until it is done or cut."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        answer = _Answer(send, self._drain)
        with self._drain.in_flight():
            if self._drain.is_cut:
                return await answer.cut(scope, receive)
            try:
                await self._app(scope, receive, answer.send)
            except asyncio.CancelledError:
                if not self._drain.is_cut:
                    raise
                await answer.cut(scope, receive)


class _Answer:
    """One response, and how much of it is sent."""

    def __init__(self, send: Send, drain: Drain) -> None:
        self._send = send
        self._drain = drain
        self._is_started = False
        self._is_complete = False
        self._is_stream = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if self._drain.is_draining:
                headers["connection"] = "close"
            self._is_started = True
            self._is_stream = headers.get("content-type", "").startswith(EVENT_STREAM)
        elif not message.get("more_body", False):
            self._is_complete = True
        await self._send(message)

    async def cut(self, scope: Scope, receive: Receive) -> None:
        """End the response with an error, as an event if a stream has begun."""
        error = ShuttingDownError("the server shuts down before the request is done; send it again")
        if not self._is_started:
            await response_to(error)(scope, receive, self.send)
        elif self._is_stream and not self._is_complete:
            note_error(error)
            event = LastEvent(error_event(error_event_data(error)), status_of(error))
            await self.send({"type": "http.response.body", "body": event})
