"""ASGI middleware: body limit, content type of streams, disconnects, metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from predictor.edge.body_memory import BodyMemory, BoundedBody, too_large
from predictor.edge.connection import REFUSED_STATUS
from predictor.edge.error_responses import response_to
from predictor.edge.inference_routes import is_inference, named_model
from predictor.edge.stream import LastEvent
from predictor.errors import PredictorError, UnsupportedMediaTypeError
from predictor.metrics import REQUEST_SECONDS, REQUESTS
from predictor.protocol.accept import EVENT_STREAM
from predictor.request_context import current_request

logger = logging.getLogger(__name__)

CALLER_LEFT = 499
# A body for a route that calls no model: a few names and flags.
_OTHER_BYTES = 65_536
# The server copies each piece, and the client's speed decides when the next one is copied.
_PIECE = 262_144
_SERVER_ERROR = 500
_NOT_MODIFIED = 304


class BodyLimitMiddleware:
    """Reject compressed bodies, and those of more than ``max_bytes``, as early as possible.

    Only calls of a model take large bodies; the server parses all others on the event loop. All
    bodies share ``memory`` until their requests end, because KServe keeps them that long.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, memory: BodyMemory) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._memory = memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the headers, then count the bytes of the body as the application reads them.

        A client that sends ``Expect: 100-continue`` learns from the headers alone that it need not
        send its body.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._max_bytes if is_inference(scope) else min(self._max_bytes, _OTHER_BYTES)
        if refusal := _refusal(Headers(scope=scope), most):
            await response_to(refusal)(scope, receive, send)
            return
        body = BoundedBody(receive, most, self._memory)
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.release()


def _refusal(headers: Headers, most: int) -> PredictorError | None:
    codings = {coding.strip().lower() for coding in headers.getlist("content-encoding")}
    if codings - {"identity", ""}:
        return UnsupportedMediaTypeError(
            "the server does not read compressed bodies: send the body without Content-Encoding"
        )
    # The parser has checked that it is a number.
    return too_large(most) if int(headers.get("content-length", 0)) > most else None


class PiecesMiddleware:
    """Send a large body in pieces: the server would copy all of it on the event loop."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Split each message that has a large body."""

        async def send_in_pieces(message: Message) -> None:
            body = message.get("body", b"")
            last = max(0, len(body) - 1) // _PIECE * _PIECE
            for start in range(0, last, _PIECE):
                piece = body[start : start + _PIECE]
                await send({"type": message["type"], "body": piece, "more_body": True})
            await send({**message, "body": body[last:]} if last else message)

        await self._app(scope, receive, send_in_pieces if scope["type"] == "http" else send)


class StreamTypeMiddleware:
    """Set the content type of streams: KServe sends none, and all of ours are event streams."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the header if a response has a body, and neither a type nor a length."""

        async def typed_send(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] != _NOT_MODIFIED:
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
        except ClientDisconnect:
            # The body ended early; the access log has the request and 499.
            pass
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
    """Count and time the calls of existing models, in all protocols.

    Other names would create an unlimited number of labels. ``only_model``, as in ``called_model``,
    returns the model of a call that is rejected before its body is read.
    """

    def __init__(
        self,
        app: ASGIApp,
        is_served: Callable[[str], bool],
        only_model: Callable[[str], str | None] = lambda path: None,
    ) -> None:
        self._app = app
        self._is_served = is_served
        self._only_model = only_model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the status once the response is sent, or 499 if the caller disconnects before."""
        if scope["type"] != "http" or not is_inference(scope):
            return await self._app(scope, receive, send)
        started = time.perf_counter()
        code: int | None = None
        status = CALLER_LEFT

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
            called = named_model(scope) or current_request().model
            name = called or self._only_model(scope["path"])
            if name and self._is_served(name):
                code = code or scope.get(REFUSED_STATUS, CALLER_LEFT)
                REQUESTS.labels(name, int(code)).inc()
                REQUEST_SECONDS.labels(name).observe(time.perf_counter() - started)
