"""A stream of server-sent events, with comments in its silences."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

# Clients ignore a comment (https://html.spec.whatwg.org/multipage/server-sent-events.html).
COMMENT = b":\n\n"
# Gateways cut connections that are silent for a minute.
SILENCE_SECONDS = 15.0


async def with_comments(
    events: AsyncGenerator[bytes], seconds: float = SILENCE_SECONDS
) -> AsyncGenerator[bytes]:
    """The events, and a comment after each ``seconds`` without one."""
    following = asyncio.ensure_future(anext(events))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=seconds)
            if not done:
                yield COMMENT
                continue
            try:
                event = following.result()
            except StopAsyncIteration:
                return
            following = asyncio.ensure_future(anext(events))
            yield event
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError, StopAsyncIteration):
            await following
        await events.aclose()
