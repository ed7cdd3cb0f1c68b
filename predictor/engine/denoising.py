"""Denoises one picture with a scheduler of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from typing import Any, Self

import torch


class Denoising:
    """The state of one picture between two steps, over a diffusers scheduler.

    ``timesteps`` are those of the scheduler. They stay on the CPU, so that no step waits for the
    GPU to read them. ``latents`` are scaled as the scheduler scales them. The denoiser sets
    ``kind``, ``encoders`` and ``control``: jobs of equal ``kind`` share a forward pass, prompts
    with equal ``encoders`` share an encoding (``negative_encoders`` for the negative prompt), and
    ``control`` holds a ControlNet's state of the picture.

    ``extra_channels``, ``(1, channels, height, width)``, are appended to the latents in the
    denoiser's input. ``after_step`` takes the latents and the number of steps done, and returns the
    new latents.

    ``step`` of ``steps`` forward passes are done. ``hand_over_after`` sets another expert that
    continues after them; both draw from the same ``generator``.
    """

    def __init__(
        self,
        scheduler: Any,
        timesteps: torch.Tensor,
        latents: torch.Tensor,
        generator: torch.Generator,
        *,
        kind: Hashable = (),
        encoders: Hashable = (),
    ) -> None:
        self._timesteps = timesteps
        self._scheduler = scheduler
        self._step_arguments = _accepted(scheduler.step, eta=0.0, generator=generator)
        self.latents = latents
        self.kind = kind
        self.encoders = encoders
        self.negative_encoders = encoders
        self.generator = generator
        self.control: Any = None
        self.extra_channels: torch.Tensor | None = None
        self.after_step: Callable[[torch.Tensor, int], torch.Tensor] | None = None
        self.step = 0
        self.steps = len(timesteps)
        self._steps_before = 0
        self._successor: Denoising | None = None

    @classmethod
    def from_noise(
        cls,
        scheduler: Any,
        num_inference_steps: int,
        noise: torch.Tensor,
        generator: torch.Generator,
    ) -> Self:
        """Start from noise of variance 1."""
        scheduler.set_timesteps(num_inference_steps)
        # Heun and PNDM take more forward passes than ``num_inference_steps``.
        latents = noise * scheduler.init_noise_sigma
        return cls(scheduler, scheduler.timesteps, latents, generator)

    def hand_over_after(self, steps: int, successor: Denoising) -> None:
        """Continue with another expert after ``steps`` steps, from the latents at that point."""
        self.steps = steps
        self._successor = successor
        successor._steps_before = steps

    @property
    def experts(self) -> tuple[Denoising, ...]:
        """This denoising and its successors, in order."""
        return (self,) if self._successor is None else (self, *self._successor.experts)

    def next_stage(self) -> Denoising:
        """The denoising that takes the next step: the successor once this one is done."""
        if self._successor is None or self.step < self.steps:
            return self
        self._successor.latents = self.latents
        return self._successor

    @property
    def steps_done(self) -> int:
        """The number of forward passes done, including those of earlier experts."""
        return self._steps_before + self.step

    @property
    def total_steps(self) -> int:
        """The number of forward passes of all experts."""
        return self._steps_before + sum(expert.steps for expert in self.experts)

    @property
    def is_done(self) -> bool:
        """Whether all steps of this expert are done."""
        return self.step == self.steps

    @property
    def timesteps(self) -> torch.Tensor:
        """The timestep of each forward pass, including those of later experts."""
        return self._timesteps

    @property
    def timestep(self) -> float:
        """The timestep of the next forward pass."""
        return float(self._timesteps[self.step])

    def model_input(self) -> torch.Tensor:
        """The denoiser's input: scaled latents and the extra channels."""
        scaled: torch.Tensor = self._scheduler.scale_model_input(
            self.latents, self._timesteps[self.step]
        )
        if self.extra_channels is None:
            return scaled
        return torch.cat([scaled, self.extra_channels], dim=1)

    def advance(self, noise_prediction: torch.Tensor) -> None:
        """Take one step with the denoiser's prediction."""
        self.latents = self._scheduler.step(
            noise_prediction,
            self._timesteps[self.step],
            self.latents,
            **self._step_arguments,
            return_dict=False,
        )[0]
        self.step += 1
        if self.after_step is not None:
            self.latents = self.after_step(self.latents, self.step)


def _accepted(step: Any, **arguments: Any) -> dict[str, Any]:
    """The arguments that this scheduler's ``step`` accepts."""
    parameters = inspect.signature(step).parameters
    return {name: value for name, value in arguments.items() if name in parameters}
