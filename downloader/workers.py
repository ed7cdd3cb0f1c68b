"""The one reason to end that all threads of a download look at."""

from __future__ import annotations

import threading


class InterruptedRunError(BaseException):
    """SIGTERM or SIGINT came; like ``KeyboardInterrupt`` it is no error of the program."""


class Stop:
    """Tripped once, by whoever first finds that the download cannot go on."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._reason: BaseException | None = None

    def trip(self, reason: BaseException) -> None:
        """Let every thread that checks or waits end with ``reason``; only the first one counts."""
        with self._lock:
            if self._reason is None:
                self._reason = reason
        self._event.set()

    @property
    def is_tripped(self) -> bool:
        """Whether there is a reason to end."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise the reason if there is one."""
        if self._event.is_set() and self._reason is not None:
            raise self._reason

    def wait(self, seconds: float) -> None:
        """Sleep, or raise the reason as soon as there is one."""
        self._event.wait(seconds)
        self.check()
