"""Retries of a request after a random, growing pause, up to a limit.

Full jitter: many pods that lost the same server do not reconnect at the same moment.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from downloader.errors import CorruptFileError, NetworkError, TransientError
from downloader.workers import Stop

logger = logging.getLogger("downloader")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
LONGEST_REQUESTED_SECONDS = 600.0
_CORRUPT_LIMIT = 3

_T = TypeVar("_T")


@dataclass
class Retries:
    """Counts consecutive failures of one request; up to ``limit`` of them are retried."""

    limit: int
    stop: Stop
    failures: int = 0

    def pause(self, error: TransientError) -> None:
        """Wait before the next attempt.

        Raises:
            NetworkError: there were more than ``limit`` failures.
        """
        self.stop.check()
        self.failures += 1
        if self.failures > self.limit:
            attempts = f"; gave up after {self.failures} attempts" if self.limit else ""
            raise NetworkError(f"{error}{attempts}") from error
        seconds = self._seconds(error.retry_after)
        logger.warning("%s; retrying in %.1f s", error, seconds, extra={"event": "retry"})
        self.stop.wait(seconds)

    def progressed(self) -> None:
        """Reset the count, because bytes arrived."""
        self.failures = 0

    def _seconds(self, requested: float | None) -> float:
        # Jitter needs no cryptographic randomness.
        if requested is not None:
            return min(requested, LONGEST_REQUESTED_SECONDS) + random.uniform(0, 1)  # noqa: S311
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**self.failures)
        return random.uniform(0, longest)  # noqa: S311


def with_correct_contents(call: Callable[[], _T]) -> _T:
    """Run ``call`` up to three times, until the contents that it fetches are correct.

    Raises:
        CorruptFileError: they never were.
    """
    for _ in range(_CORRUPT_LIMIT - 1):
        try:
            return call()
        except CorruptFileError as error:
            logger.warning("%s; fetching it again", error, extra={"event": "retry"})
    return call()


def with_retries(call: Callable[[], _T], retries: Retries) -> _T:
    """Run ``call``, and retry while it raises a ``TransientError``."""
    while True:
        try:
            return call()
        except TransientError as error:
            retries.pause(error)
