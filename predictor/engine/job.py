"""A request in flight: the caller's ticket and the state of its denoising."""

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

    def next_lanes(self) -> list[Lane]:
        """The job's lanes of the next forward pass."""
        model_input = self.denoising.model_input()
        return [
            Lane(self.denoising, model_input, conditioning, is_negative=index < self.lanes - 1)
            for index, conditioning in enumerate(self.conditioning[self.denoising.encoders])
        ]

    def advance(self, predictions: torch.Tensor) -> None:
        """Take one step with the predictions for the job's lanes; hand over after the last."""
        self.denoising.advance(self._guided(predictions))
        self.denoising = self.denoising.next_stage()
        self.ticket.report_step(self.denoising.steps_done, self.denoising.total_steps)

    def _guided(self, predictions: torch.Tensor) -> torch.Tensor:
        """Combine the lanes by classifier-free guidance (Ho and Salimans, arXiv:2207.12598)."""
        if self.lanes == 1:
            return predictions
        unconditional, conditional = predictions.chunk(2)
        request = self.ticket.request
        guided = unconditional + request.guidance_scale * (conditional - unconditional)
        if not request.guidance_rescale:
            return guided
        return _rescaled(guided, conditional, request.guidance_rescale)

    def fail(self, error: BaseException) -> None:
        """Report the failure to the caller."""
        self.ticket.fail(error)

    def __str__(self) -> str:
        return f"step {self.denoising.steps_done} of {self.denoising.total_steps}"


def _rescaled(
    guided: torch.Tensor, conditional: torch.Tensor, guidance_rescale: float
) -> torch.Tensor:
    """Restore the contrast that guidance raises (Lin et al., arXiv:2305.08891, section 3.4).

    This is ``rescale_noise_cfg`` of diffusers, for one picture.
    """
    rescaled = guided * (conditional.std() / guided.std())
    return guidance_rescale * rescaled + (1 - guidance_rescale) * guided
