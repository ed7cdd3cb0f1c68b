"""A second measurement, once an engine is idle: the first one may have met a busy node.

A rolling update starts pods while others load models on the same node. What one of them measures
then would bound it for as long as it lives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from predictor.engine.inbox import Inbox

logger = logging.getLogger(__name__)

# Longer than the loading of other pods takes as a rule, shorter than most pauses between callers.
_IDLE_SECONDS = 60.0

Found = TypeVar("Found")


class _RequestArrivedError(Exception):
    """Ends the measuring; the next idle time begins it again."""


class SecondMeasurement(Generic[Found]):
    """Runs ``measure`` once, on the engine's own thread, while nothing waits.

    ``measure`` takes a function that it calls before each run, and that raises when a request has
    arrived: a request waits for one run at most.
    """

    def __init__(
        self,
        measure: Callable[[Callable[[], None]], Found],
        idle_seconds: float = _IDLE_SECONDS,
    ) -> None:
        self._measure = measure
        self._idle_seconds = idle_seconds
        self._is_done = False

    def wait(self, inbox: Inbox, use: Callable[[Found], None]) -> None:
        """Return when a ticket waits, or at the end; ``use`` gets what is measured meanwhile."""
        while not self._is_done and not inbox.wait(self._idle_seconds):
            try:
                use(self._measure(lambda: _raise_at_news(inbox)))
            except _RequestArrivedError:
                continue
            except Exception:
                logger.exception("the second measurement failed; the first one holds")
            self._is_done = True
        inbox.wait()


def _raise_at_news(inbox: Inbox) -> None:
    if inbox.wait(0):
        raise _RequestArrivedError
