"""Wakes up the waiters of this process when something in the storage changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Changes:
    """Names and the events that wait for them; used on the event loop only."""

    def __init__(self) -> None:
        self._events: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def watch(self, *names: str) -> Iterator[asyncio.Event]:
        """An event that is set at each change of one of the names.

        Clear the event, then read the state, then wait for the event: no change is missed.
        """
        event = asyncio.Event()
        for name in names:
            self._events.setdefault(name, set()).add(event)
        try:
            yield event
        finally:
            for name in names:
                self._events[name].discard(event)
                if not self._events[name]:
                    del self._events[name]

    def notify(self, name: str) -> None:
        """Wake up those who wait for ``name``."""
        for event in self._events.get(name, ()):
            event.set()

    def notify_all(self) -> None:
        """Wake up everyone: changes may have been missed."""
        for events in self._events.values():
            for event in events:
                event.set()


async def wait_briefly(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, at most ``seconds``."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
