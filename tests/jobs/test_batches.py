"""Calls of a storage that run together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from jobs.storage.batches import Batches


class _Runs:
    """Runs of batches, the first of which waits for ``release``."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.release = asyncio.Event()
        self.error: Exception | None = None

    async def run(self, calls: Sequence[str]) -> Sequence[Any]:
        self.batches.append(list(calls))
        await self.release.wait()
        if self.error:
            raise self.error
        return [ValueError(call) if call == "bad" else call.upper() for call in calls]

    async def started(self, *calls: str) -> list[asyncio.Task[Any]]:
        """The first call runs, and the others wait."""
        self.calls = Batches[str](self.run)
        tasks = [asyncio.create_task(self.calls.call(calls[0]))]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert self.batches == [[calls[0]]]
        tasks += [asyncio.create_task(self.calls.call(call)) for call in calls[1:]]
        await asyncio.sleep(0)
        return tasks


def test_calls_that_arrive_while_a_batch_runs_form_the_next_one() -> None:
    async def main() -> None:
        runs = _Runs()
        tasks = await runs.started("a", "b", "bad", "c")
        runs.release.set()

        found = await asyncio.gather(*tasks, return_exceptions=True)

        assert runs.batches == [["a"], ["b", "bad", "c"]]
        assert [str(one) for one in found] == ["A", "B", "bad", "C"]
        assert isinstance(found[2], ValueError)
        assert await runs.calls.call("d") == "D"

    asyncio.run(main())


def test_a_call_whose_caller_has_left_does_not_run() -> None:
    async def main() -> None:
        runs = _Runs()
        first, second, third = await runs.started("a", "b", "c")
        second.cancel()
        await asyncio.sleep(0)
        runs.release.set()

        assert await asyncio.gather(first, third) == ["A", "C"]
        assert runs.batches == [["a"], ["c"]]

    asyncio.run(main())


def test_the_calls_that_wait_fail_with_the_batch() -> None:
    """Each would wait for the timeout of a storage that does not answer."""

    async def main() -> None:
        runs = _Runs()
        runs.error = OSError("no answer")
        tasks = await runs.started("a", "b")
        runs.release.set()

        found = await asyncio.gather(*tasks, return_exceptions=True)

        assert [str(one) for one in found] == ["no answer"] * 2
        assert runs.batches == [["a"]]
        runs.error = None
        assert await runs.calls.call("c") == "C"

    asyncio.run(main())
