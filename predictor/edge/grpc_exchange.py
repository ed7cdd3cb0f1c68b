"""One RPC as a request to the ASGI application, and its response as the status of the RPC."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any, NoReturn
from urllib.parse import unquote

import grpc
import orjson
from starlette.types import ASGIApp, Message, Receive, Scope

from predictor.edge.grpc_route import DEADLINE

logger = logging.getLogger(__name__)

CODES = {
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.CONFLICT: grpc.StatusCode.CANCELLED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.INTERNAL_SERVER_ERROR: grpc.StatusCode.INTERNAL,
    HTTPStatus.NOT_IMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""The gRPC status of each HTTP status in ``edge/error_responses.py``, which maps the errors."""

# How long a message may take to arrive. Over HTTP it may pause for 20 s, but gRPC hides pauses.
_READ_SECONDS = 120.0
# The metadata that the application reads as headers; other headers could contradict the message.
_REQUEST_HEADERS = {
    *("authorization", "baggage", "traceparent", "tracestate", "user-agent"),
    *("x-forwarded-for", "x-request-id"),
}
# The headers of a response that become trailing metadata.
_RESPONSE_HEADERS = ("ratelimit-", "retry-after", "www-authenticate", "x-")


class Answer:
    """The response of the application to one RPC."""

    def __init__(self) -> None:
        self.status = 0
        self._headers: list[tuple[str, str]] = []
        self._pieces: list[bytes] = []

    async def send(self, message: Message) -> None:
        """Collect the response; see the ASGI specification."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._headers = [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in message["headers"]
            ]
        else:
            self._pieces.append(message.get("body", b""))
            # Other tasks run between the pieces of a large body.
            await asyncio.sleep(0)

    async def body(self) -> bytes:
        """The whole body."""
        if len(self._pieces) == 1:
            return self._pieces[0]
        return await asyncio.to_thread(b"".join, self._pieces)

    async def check(self, context: Any) -> None:
        """Set the trailing metadata, and end the RPC if the response is an error."""
        metadata = tuple(
            (name, value) for name, value in self._headers if name.startswith(_RESPONSE_HEADERS)
        )
        if not self.status:
            await abort_late(context)
        if self.status == HTTPStatus.OK:
            context.set_trailing_metadata(metadata)
            return
        reason = orjson.loads(await self.body())["error"]
        code = CODES.get(HTTPStatus(self.status), grpc.StatusCode.UNKNOWN)
        await context.abort(code, reason, metadata)


async def exchange(
    app: ASGIApp,
    context: Any,
    method: str,
    path: str,
    read: Callable[[], Awaitable[bytes | None]] | None = None,
) -> Answer:
    """The response to a request whose body is the message that ``read`` returns."""
    answer = Answer()
    try:
        await app(_scope(context, method, path), _receive(read), answer.send)
    except Exception:
        # Starlette answers the request, then raises the error so that the server logs it.
        logger.exception("an RPC failed: %s %s", method, path)
    return answer


async def read_message(messages: AsyncIterator[bytes], reads: asyncio.Semaphore) -> bytes | None:
    """The message of an RPC; None if it does not arrive in time, or is longer than gRPC allows."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_READ_SECONDS), reads:
            async for message in messages:
                return message
    return None


async def abort_late(context: Any) -> NoReturn:
    """End an RPC whose message does not arrive."""
    reason = f"no message arrived within {_READ_SECONDS:g} s"
    await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, reason)
    raise AssertionError(reason)


def _receive(read: Callable[[], Awaitable[bytes | None]] | None) -> Receive:
    is_read = False

    async def receive() -> Message:
        nonlocal is_read
        if is_read:
            # gRPC cancels the handler of a caller that leaves.
            await asyncio.get_running_loop().create_future()
        is_read = True
        message = await read() if read else b""
        if message is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": message, "more_body": False}

    return receive


def _scope(context: Any, method: str, path: str) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "2",
        "scheme": "http",
        "method": method,
        # Still quoted, so that a name with a slash names no other route.
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (name.encode(), value.encode("latin-1"))
            for name, value in context.invocation_metadata() or ()
            if name in _REQUEST_HEADERS
        ],
        "client": _client(context.peer()),
        "server": None,
        "extensions": {DEADLINE: context.time_remaining()},
    }


def _client(peer: str) -> tuple[str, int] | None:
    """The address in ``ipv4:127.0.0.1:50000`` or ``ipv6:%5B::1%5D:50000``; None for others."""
    family, _, address = unquote(peer).partition(":")
    host, _, port = address.rpartition(":")
    if family not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    return host.strip("[]"), int(port)
