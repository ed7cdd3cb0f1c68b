"""A request in flight: the caller's ticket and the state of its denoising."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from PIL import Image

from predictor.engine.denoising import Denoising
from predictor.engine.embeddings import Prompt
from predictor.engine.inbox import Ticket
from predictor.engine.interfaces import Lane
from predictor.requests import Preview

if TYPE_CHECKING:
    from predictor.engine.interfaces import Conditioning

logger = logging.getLogger(__name__)


def preview_steps(count: int, steps: int) -> tuple[int, ...]:
    """After which forward passes to preview a picture: evenly spaced, and before the last."""
    return tuple(sorted({index * steps // (count + 1) for index in range(1, count + 1)} - {0}))


def prompts_of(ticket: Ticket, denoising: Denoising) -> dict[Hashable, list[Prompt]]:
    """The prompts whose embeddings are the ``conditioning`` of the ticket's job."""
    return {expert.encoders: _lane_prompts(ticket, expert) for expert in denoising.experts}


def _lane_prompts(ticket: Ticket, expert: Denoising) -> list[Prompt]:
    prompt = Prompt(ticket.request.prompt, expert.encoders)
    if ticket.lanes == 1:
        return [prompt]
    return [Prompt(ticket.request.negative_prompt, expert.negative_encoders), prompt]


@dataclass(frozen=True)
class PredictedPicture:
    """The clean latents of a job's picture after a step, ``(1, channels, height, width)``."""

    job: Job
    latents: torch.Tensor
    index: int
    step: int

    def show(self, image: Image.Image) -> None:
        """Give the decoded preview to the caller, if it still waits; from any thread."""
        previews = self.job.ticket.previews
        if previews is None or self.job.ticket.is_over:
            return
        steps = self.job.denoising.total_steps
        try:
            previews.on_preview(Preview(image, self.index, self.step, steps))
        except Exception as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Drop the preview; the picture itself may still succeed."""
        self.job.ticket.log(logger.warning, "a preview is dropped: %s", error)


@dataclass(eq=False)
class Job:
    """A picture that takes steps in the engine.

    ``conditioning`` holds a list for each ``encoders`` of the denoising's experts, with one entry
    per lane; with two lanes, the negative prompt comes first. ``waiting_since`` is the first turn
    of the engine in which the job could take its next step. ``predicted`` is what the last step
    predicts, if it is to be previewed, and ``previewing`` the previews that are being converted.
    """

    ticket: Ticket
    denoising: Denoising
    conditioning: Mapping[Hashable, Sequence[Conditioning]]
    warnings: tuple[str, ...]
    waiting_since: int
    admitted: float = field(default_factory=time.perf_counter)
    predicted: PredictedPicture | None = None
    previewing: list[Future[None]] = field(default_factory=list)
    _preview_steps: tuple[int, ...] = field(init=False)
    _reported: int = 0
    _reporting: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Choose the steps to preview."""
        count = self.ticket.previews.count if self.ticket.previews else 0
        self._preview_steps = preview_steps(count, self.denoising.total_steps)

    @property
    def has_preview(self) -> bool:
        """Whether to preview what the next step predicts."""
        return self.denoising.steps_done + 1 in self._preview_steps

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

    def predict(self, prediction: torch.Tensor) -> None:
        """Note what the next step predicts, ``(1, channels, height, width)``, for a preview."""
        step = self.denoising.steps_done + 1
        clean = self.denoising.clean_sample(prediction)
        self.predicted = PredictedPicture(self, clean, self._preview_steps.index(step), step)

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
