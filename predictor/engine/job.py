"""A request under way: the caller's ticket, and the state of its denoising."""

from __future__ import annotations

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
    """``conditioning`` holds one entry a lane: without the prompt first, where there are two.

    There is one such list for each of the ``encoders`` that the denoising's experts name.
    ``waiting_since`` is the first of the engine's turns in which the next step could be taken.
    """

    ticket: Ticket
    denoising: Denoising
    conditioning: Mapping[Hashable, Sequence[Conditioning]]
    warnings: tuple[str, ...]
    waiting_since: int
    admitted: float = field(default_factory=time.perf_counter)

    @property
    def lanes(self) -> int:
        """How many samples of a batch the job takes."""
        return self.ticket.lanes

    @property
    def shape(self) -> torch.Size:
        """The latents' shape: jobs that share it can be decoded together."""
        shape: torch.Size = self.denoising.latents.shape
        return shape

    @property
    def kind(self) -> Hashable:
        """Jobs of one kind can share a forward pass."""
        return self.denoising.kind, self.shape

    def next_lanes(self) -> list[Lane]:
        """What the next forward pass is to see of this job."""
        model_input = self.denoising.model_input()
        return [
            Lane(self.denoising, model_input, conditioning, is_negative=index < self.lanes - 1)
            for index, conditioning in enumerate(self.conditioning[self.denoising.encoders])
        ]

    def advance(self, predictions: torch.Tensor) -> None:
        """Go one step by the predictions of the job's own lanes; the next may be another's."""
        self.denoising.advance(self._guided(predictions))
        self.denoising = self.denoising.next_stage()
        self.ticket.stepped(self.denoising.steps_done, self.denoising.total_steps)

    def _guided(self, predictions: torch.Tensor) -> torch.Tensor:
        """Classifier-free guidance."""
        if self.lanes == 1:
            return predictions
        unconditional, conditional = predictions.chunk(2)
        scale = self.ticket.request.guidance_scale
        return unconditional + scale * (conditional - unconditional)

    def fail(self, error: Exception) -> None:
        """Tell the caller."""
        self.ticket.fail(error)

    def __str__(self) -> str:
        return f"step {self.denoising.steps_done} of {self.denoising.total_steps}"
