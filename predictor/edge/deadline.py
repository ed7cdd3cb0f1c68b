"""How long one request may take, whatever it is waiting for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from predictor.errors import DeadlineExceededError

READING = "the server is still reading the request"


@asynccontextmanager
async def within(started: float, seconds: float | None, state: object) -> AsyncIterator[None]:
    """Stop the work inside the context ``seconds`` after ``started``; None never stops it.

    ``started`` is a time of the event loop's clock. The error includes the text of ``state`` as it
    is then.

    Raises:
        DeadlineExceededError: the time is up.
    """
    due = None if seconds is None else started + seconds
    timeout = asyncio.timeout_at(due)
    try:
        async with timeout:
            yield
    except TimeoutError:
        if not timeout.expired():
            raise
        raise DeadlineExceededError(f"not done within {seconds:g} s: {state}") from None
