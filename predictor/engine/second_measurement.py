"""Measures the capacity again once the engine is idle, as the node may be busy at the start.

During a rolling update, pods start while others load models on the same node. Without a second
measurement, the low result would bound the engine until the pod restarts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from predictor.engine.inbox import Inbox

logger = logging.getLogger(__name__)

# Usually longer than other pods take to load, and shorter than most pauses between requests.
_IDLE_SECONDS = 60.0

Found = TypeVar("Found")


class _RequestArrivedError(Exception):
    """Interrupts the measurement, which restarts when the engine is next idle."""


class SecondMeasurement(Generic[Found]):
    """Runs ``measure`` once, on the engine's thread, while the queue is empty.

    ``measure`` calls its argument before each run. That raises once a request has arrived, so a
    request waits for one run at most.
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
        """Return once a ticket waits or the inbox is closed; pass a measurement to ``use``."""
        while not self._is_done and not inbox.wait(self._idle_seconds):
            try:
                use(self._measure(lambda: _raise_if_woken(inbox)))
            except _RequestArrivedError:
                continue
            except Exception:
                logger.exception("the second measurement failed; keeping the first one")
            self._is_done = True
        inbox.wait()


def _raise_if_woken(inbox: Inbox) -> None:
    if inbox.wait(0):
        raise _RequestArrivedError
