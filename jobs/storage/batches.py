"""Calls that run together: those that arrive while a batch runs form the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

Call = TypeVar("Call")
# A longer batch would hold up its first call.
_MOST_CALLS = 64


class Batches(Generic[Call]):
    """Runs calls in order, one batch after another, on the event loop.

    ``run`` returns the result of each call, or the error that ``call`` raises. If it fails as a
    whole, so do the calls that wait: each would wait for the same storage.
    """

    def __init__(self, run: Callable[[Sequence[Call]], Awaitable[Sequence[Any]]]) -> None:
        self._run = run
        self._waiting: list[tuple[Call, asyncio.Future[Any]]] = []
        self._task: asyncio.Task[None] | None = None

    async def call(self, call: Call) -> Any:
        """The result of one call. A call whose caller is cancelled first does not run."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((call, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run_all())
        return await future

    async def _run_all(self) -> None:
        while waiting := [one for one in self._waiting if not one[1].done()]:
            batch, self._waiting = waiting[:_MOST_CALLS], waiting[_MOST_CALLS:]
            try:
                outcomes = await self._run([call for call, _ in batch])
            except Exception as error:  # raised again by each call
                batch, self._waiting = [*batch, *self._waiting], []
                outcomes = [error] * len(batch)
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if future.done():
                    continue
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
        self._task = None
