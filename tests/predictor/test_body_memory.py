"""The memory of all request bodies together, with ASGI messages instead of connections."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from predictor.edge.body_memory import BodyMemory
from predictor.edge.error_responses import response_to
from predictor.edge.middleware import BodyLimitMiddleware
from predictor.errors import BodyMemoryError

KIB = 1024
SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/v1/models/m:predict",
    "headers": [(b"content-length", b"204800")],
}


async def read_body(scope: Scope, receive: Receive, send: Send) -> None:
    await Request(scope, receive).body()


async def unused_send(_: Any) -> None:
    raise AssertionError


class Slow:
    """Sends the first piece of a body, and the rest when the test says so."""

    def __init__(self, size: int, rest: int = 0) -> None:
        self._messages = [
            {"type": "http.request", "body": bytes(size), "more_body": True},
            {"type": "http.request", "body": bytes(rest), "more_body": False},
        ]
        self.finish = asyncio.Event()

    async def receive(self) -> Any:
        if len(self._messages) == 1:
            await self.finish.wait()
        return self._messages.pop(0)


def test_bodies_that_arrive_slowly_share_one_bound_and_release_it() -> None:
    app = BodyLimitMiddleware(read_body, max_bytes=400 * KIB, memory=BodyMemory(250 * KIB))

    async def work() -> None:
        # Each takes 136 KiB: 64 KiB of a body are not counted.
        first, second, third = Slow(200 * KIB), Slow(200 * KIB), Slow(200 * KIB)
        arriving = asyncio.create_task(app(SCOPE, first.receive, unused_send))
        await asyncio.sleep(0)
        with pytest.raises(BodyMemoryError, match="the request bodies in the server take all"):
            await app(SCOPE, second.receive, unused_send)
        small = Slow(30 * KIB, 30 * KIB)
        small.finish.set()
        await app(SCOPE, small.receive, unused_send)
        first.finish.set()
        await arriving
        third.finish.set()
        await app(SCOPE, third.receive, unused_send)

    asyncio.run(asyncio.wait_for(work(), 60))


def test_a_caller_that_leaves_releases_the_memory_of_its_body() -> None:
    app = BodyLimitMiddleware(read_body, max_bytes=400 * KIB, memory=BodyMemory(250 * KIB))

    async def work() -> None:
        leaving = asyncio.create_task(app(SCOPE, Slow(200 * KIB).receive, unused_send))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        next_one = Slow(200 * KIB)
        next_one.finish.set()
        await app(SCOPE, next_one.receive, unused_send)

    asyncio.run(asyncio.wait_for(work(), 60))


def test_the_refusal_closes_the_connection() -> None:
    response = response_to(BodyMemoryError("no memory"))

    assert response.status_code == 429
    assert response.headers["retry-after"] == "5"
    assert response.headers["connection"] == "close"
