"""How far the pictures of a call have come: told by the engine's thread, awaited by the server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from predictor.engine import StepListener
from predictor.requests import GenerationRequest


class Progress:
    """Steps done and steps in all, over all pictures; made and awaited on the event loop.

    ``is_watched``: whether somebody awaits ``change``; else no step wakes the event loop.
    """

    def __init__(self, requests: Sequence[GenerationRequest], is_watched: bool) -> None:
        self._steps = [(0, request.steps_taken) for request in requests]
        self._is_watched = is_watched
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    @property
    def step(self) -> int:
        """How many steps are done."""
        return sum(step for step, _ in self._steps)

    @property
    def steps(self) -> int:
        """How many there are; a scheduler may take more passes than it was asked for steps."""
        return sum(steps for _, steps in self._steps)

    def listener(self, picture: int) -> StepListener:
        """What the engine is to tell of the picture of that index."""

        def on_step(step: int, steps: int) -> None:
            self._steps[picture] = step, steps
            if self._is_watched:
                self._loop.call_soon_threadsafe(self._changed.set)

        return on_step

    async def change(self) -> None:
        """Return when there is something new."""
        await self._changed.wait()
        self._changed.clear()

    def __str__(self) -> str:
        return f"at step {self.step} of {self.steps}"
