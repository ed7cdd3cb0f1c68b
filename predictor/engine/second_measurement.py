"""Measures the capacity again once the engine is idle, as the node may be busy at the start.

During a rolling update, pods start while others load models on the same node. Without a second
measurement, the low result would bound the engine until the pod restarts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from predictor.engine.faults import raise_if_device_is_lost
from predictor.engine.inbox import Inbox
from predictor.engine.watchdog import Watchdog

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

    def wait(self, inbox: Inbox, watchdog: Watchdog, use: Callable[[Found], None]) -> None:
        """Return once a ticket waits or the inbox is closed; pass a measurement to ``use``.

        Raises:
            DeviceLostError: the measurement failed, and all later work would.
        """
        while not self._is_done and not inbox.wait(self._idle_seconds):
            try:
                with watchdog.watch("measurement"):
                    use(self._measure(lambda: _before_run(inbox, watchdog)))
            except _RequestArrivedError:
                continue
            except Exception as error:
                raise_if_device_is_lost(error)
                logger.exception("the second measurement failed; keeping the first one")
            self._is_done = True
        inbox.wait()


def _before_run(inbox: Inbox, watchdog: Watchdog) -> None:
    watchdog.note_progress()
    if inbox.wait(0):
        raise _RequestArrivedError
