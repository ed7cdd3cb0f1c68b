"""Where the counters are: the memory of the process, or a Redis that all replicas share."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import ConfigurationError, StorageError

from predictor.access.rates import Counter, Usage
from predictor.errors import ModelLoadError
from predictor.metrics import RATE_LIMIT_STORAGE_FAILURES

logger = logging.getLogger(__name__)

# Valkey speaks the protocol of Redis.
_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "redis+unix": "redis+unix",
    "valkey": "redis",
    "valkeys": "rediss",
    "valkey+unix": "redis+unix",
}
# Meanwhile no request waits for a storage that did not answer.
_SECONDS_BETWEEN_TRIES = 5.0

Result = TypeVar("Result")


class StorageGoneError(Exception):
    """The storage does not answer."""


class RateStorage:
    """Adds to counters and reads them; used on the event loop only.

    A sliding window counter takes two numbers per counter, however high the limit is. A moving
    window would store an entry per pixel.
    """

    def __init__(self, url: str = "", timeout_seconds: float = 0.5) -> None:
        """Connect later, on first use. An empty ``url`` is the memory of this process.

        After ``timeout_seconds`` without an answer the storage counts as gone.

        Raises:
            ModelLoadError: the URL is not valid; the message does not contain it.
        """
        self._storage = _redis(url) if url else MemoryStorage()
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)
        self._timeout_seconds = timeout_seconds
        self._is_gone = False
        self._next_try = 0.0

    async def add(self, costs: Sequence[tuple[Counter, int]]) -> list[bool]:
        """Add each cost to its counter if it fits, and return which did. A cost may be negative.

        Each counter is exact, also if several replicas share the storage.

        Raises:
            StorageGoneError: some counters may have been changed.
        """
        hit = self._limiter.hit
        return await self._all(
            [partial(hit, counter.item, *counter.identifiers, cost=cost) for counter, cost in costs]
        )

    async def usage(self, counters: Sequence[Counter]) -> list[Usage]:
        """The state of each counter.

        Raises:
            StorageGoneError: it does not answer.
        """
        read = self._storage.get_sliding_window
        windows = await self._all(
            [
                partial(read, one.item.key_for(*one.identifiers), one.item.get_expiry())
                for one in counters
            ]
        )
        return [Usage(*window) for window in windows]

    async def _all(self, calls: Sequence[Callable[[], Awaitable[Result]]]) -> list[Result]:
        """Run the calls at the same time: with Redis, one round trip."""
        if not calls:
            return []
        if self._is_gone:
            if time.monotonic() < self._next_try:
                raise StorageGoneError
            # Only this request tries again.
            self._next_try = time.monotonic() + _SECONDS_BETWEEN_TRIES
        try:
            async with asyncio.timeout(self._timeout_seconds):
                results = list(await asyncio.gather(*(call() for call in calls)))
        except (StorageError, OSError, TimeoutError) as error:
            self._note_gone(error)
            raise StorageGoneError from None
        if self._is_gone:
            self._is_gone = False
            logger.info("rate_limit_storage: answers again")
        return results

    def _note_gone(self, error: Exception) -> None:
        RATE_LIMIT_STORAGE_FAILURES.inc()
        self._next_try = time.monotonic() + _SECONDS_BETWEEN_TRIES
        if not self._is_gone:
            reason = str(error) or f"no answer within {self._timeout_seconds:g} s"
            logger.error("rate_limit_storage: does not answer: %s", reason)
        self._is_gone = True


def _redis(url: str) -> RedisStorage:
    scheme, separator, rest = url.removeprefix("async+").partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ModelLoadError(
            f"rate_limit_storage: the URL must begin with one of {', '.join(_SCHEMES)} and ://"
        )
    try:
        return RedisStorage(
            f"async+{_SCHEMES[scheme]}://{rest}", wrap_exceptions=True, implementation="redispy"
        )
    except (ConfigurationError, ValueError):
        raise ModelLoadError(
            "rate_limit_storage: the URL is not valid; write it as redis://:password@host:6379/0"
        ) from None
