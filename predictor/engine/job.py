"""A request in flight: the caller's ticket and the state of its denoising."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from predictor.engine.denoising import Denoising
from predictor.engine.inbox import Ticket
from predictor.engine.interfaces import Lane

if TYPE_CHECKING:
    from predictor.engine.interfaces import Conditioning


@dataclass(eq=False)
class Job:
    """A picture that takes steps in the engine.

    ``conditioning`` holds a list for each ``encoders`` of the denoising's experts, with one entry
    per lane; with two lanes, the negative prompt comes first. ``waiting_since`` is the first turn
    of the engine in which the job could take its next step.
    """

    ticket: Ticket
    denoising: Denoising
    conditioning: Mapping[Hashable, Sequence[Conditioning]]
    warnings: tuple[str, ...]
    waiting_since: int
    admitted: float = field(default_factory=time.perf_counter)
    _reported: int = 0
    _reporting: threading.Lock = field(default_factory=threading.Lock)

    @property
    def lanes(self) -> int:
        """The number of samples that the job adds to a batch."""
        return self.ticket.lanes

    @property
    def shape(self) -> torch.Size:
        """The latents' shape; jobs of equal shape can be decoded together."""
        shape: torch.Size = self.denoising.latents.shape
        return shape

    @property
    def kind(self) -> Hashable:
        """Jobs of equal kind can share a forward pass."""
        return self.denoising.kind, self.shape

    def lanes_of(self, model_input: torch.Tensor) -> list[Lane]:
        """The job's lanes of the next forward pass, for its ``(1, channels, height, width)``."""
        return [
            Lane(self.denoising, model_input, conditioning, is_negative=index < self.lanes - 1)
            for index, conditioning in enumerate(self.conditioning[self.denoising.encoders])
        ]

    def move_to(self, state: torch.Tensor) -> None:
        """Finish a step with a new state of the denoising; hand over after the last."""
        self.denoising.state = state
        self.denoising.step += 1
        self.denoising = self.denoising.next_stage()
        self.denoising.draw_ahead()

    def report_step(self, steps_done: int) -> None:
        """Report to the caller, from any thread, that the device has taken that many steps.

        If the caller's listener raises, only this job fails.
        """
        with self._reporting:
            if steps_done <= self._reported:
                return
            self._reported = steps_done
            try:
                self.ticket.report_step(steps_done, self.denoising.total_steps)
            except Exception as error:
                self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Report the failure to the caller."""
        self.ticket.fail(error)

    def __str__(self) -> str:
        return f"step {self.denoising.steps_done} of {self.denoising.total_steps}"
