"""When a request is tried again: after a random pause that grows, not for ever.

Full jitter: many pods that lost the same server do not come back at the same moment.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from downloader.errors import NetworkError, TransientError
from downloader.workers import Stop

logger = logging.getLogger("downloader")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
LONGEST_ASKED_SECONDS = 600.0

_T = TypeVar("_T")


@dataclass
class Retries:
    """Counts the failures in a row of one request; ``limit`` of them may be tried again."""

    limit: int
    stop: Stop
    failures: int = 0

    def pause(self, error: TransientError) -> None:
        """Wait before the next try.

        Raises:
            NetworkError: there were too many.
        """
        self.stop.check()
        self.failures += 1
        if self.failures > self.limit:
            tries = f"; gave up after {self.failures} tries" if self.limit else ""
            raise NetworkError(f"{error}{tries}") from error
        seconds = self._seconds(error.retry_after)
        logger.warning("%s; trying again in %.1f s", error, seconds, extra={"event": "retry"})
        self.stop.wait(seconds)

    def progressed(self) -> None:
        """Bytes came: what failed before does not count any more."""
        self.failures = 0

    def _seconds(self, asked: float | None) -> float:
        # Jitter, not a secret.
        if asked is not None:
            return min(asked, LONGEST_ASKED_SECONDS) + random.uniform(0, 1)  # noqa: S311
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**self.failures)
        return random.uniform(0, longest)  # noqa: S311


def with_retries(call: Callable[[], _T], retries: Retries) -> _T:
    """The result of ``call``, tried again where it raises a ``TransientError``."""
    while True:
        try:
            return call()
        except TransientError as error:
            retries.pause(error)
