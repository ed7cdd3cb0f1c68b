"""What the load of a model does now, for those who wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

# In this order: the imports of the process, another model's load or unload, the weights of this
# one, and its first pictures.
Phase = Literal["importing", "queued", "loading", "warming"]


class LoadPhase:
    """The phase of one model's load; used on the event loop only."""

    def __init__(self) -> None:
        self.current: Phase = "importing"
        self._watchers: set[asyncio.Event] = set()

    def enter(self, phase: Phase) -> None:
        """Change the phase, and notify those who watch it."""
        self.current = phase
        for changed in self._watchers:
            changed.set()

    @contextmanager
    def watched(self, changed: asyncio.Event) -> Iterator[None]:
        """Set ``changed`` at each change inside the context."""
        self._watchers.add(changed)
        try:
            yield
        finally:
            self._watchers.discard(changed)
