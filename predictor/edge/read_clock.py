"""The time that a client has to send a request: its headers, and each part of its body."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# For the first byte of the first request, for the headers, and for each pause in the body.
READ_SECONDS = 20.0
# A body gets one more second for each of these.
_BODY_BYTES_PER_SECOND = 4_096


class ReadClock:
    """Calls ``on_late`` if a request does not arrive in time.

    While ``is_paused``, the server does not read, and the time does not count. Once
    ``is_answered``, a body earns no more time.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        is_paused: Callable[[], bool],
        is_answered: Callable[[], bool],
        on_late: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._is_paused = is_paused
        self._is_answered = is_answered
        self._on_late = on_late
        self._timer: asyncio.TimerHandle | None = None
        self._began = self._received = 0.0
        self._body_bytes = 0

    @property
    def is_running(self) -> bool:
        """Whether a request is being received."""
        return self._timer is not None

    def begin(self) -> None:
        """A request begins."""
        self.stop()
        self._began, self._body_bytes = self._loop.time(), 0
        self._timer = self._loop.call_later(READ_SECONDS, self._check)

    def stop(self) -> None:
        """The request is complete, or refused."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def note_data(self) -> None:
        """The client has sent something."""
        self._received = self._loop.time()

    def note_body(self, size: int) -> None:
        """The client has sent ``size`` bytes of the body."""
        self._body_bytes += size

    def _check(self) -> None:
        now = self._loop.time()
        if self._is_paused():
            self._began = self._received = now
        earned = 0.0 if self._is_answered() else self._body_bytes / _BODY_BYTES_PER_SECOND
        limit = READ_SECONDS + min(self._received, self._began + earned)
        if limit > now:
            self._timer = self._loop.call_later(limit - now, self._check)
        else:
            self._on_late()
