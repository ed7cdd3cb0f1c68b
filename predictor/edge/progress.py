"""The progress of a call: the engine's thread reports it, the event loop awaits it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from predictor.edge.preview_events import EncodePreview, PreviewEvents
from predictor.engine import Previews, StepListener
from predictor.protocol.encode import progress_event
from predictor.requests import GenerationRequest, Preview


class Progress:
    """Done and total steps over all pictures of a call.

    Created and awaited on the event loop. If ``is_watched`` is False, steps do not wake the loop.
    ``as_event`` writes the event for done and total steps, and ``encode_preview`` that of a
    preview.
    """

    def __init__(
        self,
        requests: Sequence[GenerationRequest],
        is_watched: bool,
        as_event: Callable[[int, int], bytes] = progress_event,
        encode_preview: EncodePreview | None = None,
    ) -> None:
        self._as_event = as_event
        self._steps = [(0, request.steps_taken) for request in requests]
        self._is_watched = is_watched
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._previews = encode_preview and PreviewEvents(encode_preview, self._changed.set)

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

    def previews(self, picture: int, count: int) -> Previews | None:
        """What the engine needs to send ``count`` previews of the picture with this index."""
        events = self._previews
        if events is None or not count:
            return None

        def on_preview(preview: Preview) -> None:
            self._loop.call_soon_threadsafe(events.add, picture, preview)

        return Previews(count, on_preview)

    def event(self) -> bytes:
        """The previews that are not sent yet, and the current state as an event."""
        return self.unsent() + self._as_event(self.step, self.steps)

    def unsent(self) -> bytes:
        """The previews that are not sent yet."""
        return self._previews.take() if self._previews else b""

    async def settle(self) -> None:
        """Wait for the previews that the engine has sent; they are few, and quick to encode."""
        if self._previews:
            await self._previews.settle()

    async def change(self) -> None:
        """Wait for the next step."""
        await self._changed.wait()
        self._changed.clear()

    def __str__(self) -> str:
        return f"at step {self.step} of {self.steps}"
