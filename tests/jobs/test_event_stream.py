"""A stream of events that is silent for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from jobs.api.event_stream import COMMENT, with_comments


def test_a_comment_follows_each_silence_and_no_event_is_lost() -> None:
    async def scenario() -> list[bytes]:
        heard = asyncio.Event()

        async def events() -> AsyncGenerator[bytes]:
            yield b"one"
            await heard.wait()
            yield b"two"
            yield b"three"

        found = []
        async for one in with_comments(events(), seconds=0.01):
            found.append(one)
            if found.count(COMMENT) == 2:
                heard.set()
        return found

    first, *comments, before_last, last = asyncio.run(asyncio.wait_for(scenario(), 30))

    assert (first, before_last, last) == (b"one", b"two", b"three")
    assert len(comments) >= 2
    assert set(comments) == {COMMENT}


@pytest.mark.parametrize("silent", [True, False])
def test_a_caller_that_leaves_ends_the_events(silent: bool) -> None:
    async def scenario() -> bool:
        has_ended = False

        async def events() -> AsyncGenerator[bytes]:
            nonlocal has_ended
            try:
                yield b"one"
                if silent:
                    await asyncio.Event().wait()
                yield b"two"
            finally:
                has_ended = True

        stream = with_comments(events(), seconds=0.01)
        assert await anext(stream) == b"one"
        await anext(stream)
        await stream.aclose()
        return has_ended

    assert asyncio.run(asyncio.wait_for(scenario(), 30))


def test_an_error_of_the_events_is_not_hidden() -> None:
    async def scenario() -> None:
        async def events() -> AsyncGenerator[bytes]:
            yield b"one"
            raise ValueError("broken")

        stream = with_comments(events())
        assert await anext(stream) == b"one"
        await anext(stream)

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(asyncio.wait_for(scenario(), 30))
