"""The progress of a call: the engine's thread reports it, the event loop awaits it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from predictor.engine import StepListener
from predictor.protocol.encode import progress_event
from predictor.requests import GenerationRequest


class Progress:
    """Done and total steps over all pictures of a call.

    Created and awaited on the event loop. If ``is_watched`` is False, steps do not wake the loop.
    ``as_event`` writes the event for done and total steps.
    """

    def __init__(
        self,
        requests: Sequence[GenerationRequest],
        is_watched: bool,
        as_event: Callable[[int, int], bytes] = progress_event,
    ) -> None:
        self._as_event = as_event
        self._steps = [(0, request.steps_taken) for request in requests]
        self._is_watched = is_watched
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    @property
    def step(self) -> int:
        """The number of steps done."""
        return sum(step for step, _ in self._steps)

    @property
    def steps(self) -> int:
        """The total; some schedulers take more passes than ``num_inference_steps``."""
        return sum(steps for _, steps in self._steps)

    def listener(self, picture: int) -> StepListener:
        """The listener that the engine calls at each step of the picture with this index."""

        def on_step(step: int, steps: int) -> None:
            self._steps[picture] = step, steps
            if self._is_watched:
                self._loop.call_soon_threadsafe(self._changed.set)

        return on_step

    def event(self) -> bytes:
        """The current state as an event."""
        return self._as_event(self.step, self.steps)

    async def change(self) -> None:
        """Wait for the next step."""
        await self._changed.wait()
        self._changed.clear()

    def __str__(self) -> str:
        return f"at step {self.step} of {self.steps}"
