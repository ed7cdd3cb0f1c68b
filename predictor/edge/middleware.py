"""ASGI middleware: body limit, content type of streams, disconnects, metrics."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from predictor.edge.stream import LastEvent
from predictor.errors import BodyTooLargeError
from predictor.metrics import REQUEST_SECONDS, REQUESTS
from predictor.protocol.accept import EVENT_STREAM

logger = logging.getLogger(__name__)

CALLER_LEFT = 499
_SERVER_ERROR = 500
PREDICT = re.compile(r"/v1/models/([^/:]+):predict")


class BodyLimitMiddleware:
    """Reject a body of more than ``max_bytes`` while it arrives, without keeping it."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the bytes of the body as the application reads them."""
        received = 0

        async def bounded_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise BodyTooLargeError(f"the request body is longer than {self._max_bytes} bytes")
            return message

        await self._app(scope, bounded_receive if scope["type"] == "http" else receive, send)


class StreamTypeMiddleware:
    """Set the content type of streams: KServe sends none, and all of ours are event streams."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the header if a response has neither a type nor a length."""

        async def typed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if not {"content-type", "content-length"} & {*headers}:
                    headers["content-type"] = EVENT_STREAM
                    headers["cache-control"] = "no-store"
            await send(message)

        await self._app(scope, receive, typed_send if scope["type"] == "http" else send)


class HangUpMiddleware:
    """Cancel the handler of a request when its caller disconnects."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Watch the connection from the end of the request body to the end of the response."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        watch = _Watch(receive, send)
        try:
            await self._app(scope, watch.receive, watch.send)
        except asyncio.CancelledError:
            if not watch.hung_up:
                raise
            watch.uncancel()
            logger.info("the caller disconnected: %s %s", scope["method"], scope["path"])
        finally:
            watch.stop()


class _Watch:
    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._handler = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None
        self.hung_up = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._watcher = asyncio.create_task(self._wait_for_disconnect())
        return message

    async def send(self, message: Message) -> None:
        # The server also reports a finished response as a disconnect, so stop watching.
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.stop()
        await self._send(message)

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.hung_up = True
        assert self._handler is not None
        self._handler.cancel()

    def uncancel(self) -> None:
        """Undo the cancellation: the server's task still has to close the connection."""
        assert self._handler is not None
        self._handler.uncancel()

    def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()


class MetricsMiddleware:
    """Count and time the predict calls of existing models.

    Other names would create an unlimited number of labels.
    """

    def __init__(self, app: ASGIApp, is_served: Callable[[str], bool]) -> None:
        self._app = app
        self._is_served = is_served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the status once the response is sent, or 499 if the caller disconnects before."""
        found = PREDICT.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            return await self._app(scope, receive, send)
        name, started = found[1], time.perf_counter()
        code = status = CALLER_LEFT

        async def noting_send(message: Message) -> None:
            nonlocal code, status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif isinstance(message.get("body"), LastEvent):
                code = status = message["body"].status
            elif not message.get("more_body", False):
                code = status
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        except Exception:
            code = _SERVER_ERROR
            raise
        finally:
            # Checked at the end, because the request itself may have discovered a new model.
            if self._is_served(name):
                REQUESTS.labels(name, int(code)).inc()
                REQUEST_SECONDS.labels(name).observe(time.perf_counter() - started)
