"""Denoises one picture by a plan, or by a scheduler of its own where no plan fits."""

from __future__ import annotations

import inspect
from collections.abc import Hashable
from typing import Any, NamedTuple, Self, TypeAlias

import torch

from predictor.engine.plan import ROWS, Plan


class SchedulerSteps:
    """The steps of a diffusers scheduler that is not linear; it belongs to one picture.

    ``timesteps`` are those of the scheduler from its begin index on, on the CPU.
    """

    def __init__(self, scheduler: Any, timesteps: torch.Tensor) -> None:
        self.timesteps = timesteps
        self.init_noise_sigma = getattr(scheduler, "init_noise_sigma", 1.0)
        self._scheduler = scheduler

    def add_noise(self, clean: torch.Tensor, noise: torch.Tensor, step: int = 0) -> torch.Tensor:
        """A sample of that pass, from a clean sample and noise of variance 1."""
        return noisy_sample(self._scheduler, clean, noise, self.timesteps[step : step + 1])

    def scaled(self, sample: torch.Tensor, step: int) -> torch.Tensor:
        """The denoiser's input."""
        return scaled_input(self._scheduler, sample, self.timesteps[step])

    def stepped(
        self, sample: torch.Tensor, prediction: torch.Tensor, step: int, generator: torch.Generator
    ) -> torch.Tensor:
        """The sample after that step."""
        arguments = accepted_arguments(self._scheduler.step, eta=0.0, generator=generator)
        after: torch.Tensor = self._scheduler.step(
            prediction, self.timesteps[step], sample, **arguments, return_dict=False
        )[0]
        return after


Steps: TypeAlias = Plan | SchedulerSteps


class Inpainting(NamedTuple):
    """The area outside ``mask`` is restored after each step, at the noise level of that step.

    ``clean`` and ``noise`` have the shape of the latents. ``mask`` has one channel: 1 in the area
    to repaint.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor


class Denoising:
    """The state of one picture between two steps.

    With a plan, the latents are float32, and ``state`` is ``(1 + kept tensors, channels, height,
    width)``; its first entry are the latents. The denoiser sets ``kind``, ``encoders`` and
    ``control``: jobs of equal ``kind`` share a forward pass, prompts with equal ``encoders`` share
    an encoding (``negative_encoders`` for the negative prompt), and ``control`` holds a
    ControlNet's state of the picture. ``extra_channels``, ``(1, channels, height, width)``, are
    appended to the latents in the denoiser's input. ``guidance_input``, ``()`` on the
    device, is the guidance scale for a network that takes it as an input.

    ``step`` of ``steps`` forward passes are done. ``hand_over_after`` sets another expert that
    continues after them; both draw from the same ``generator``.
    """

    def __init__(
        self,
        sampler: Steps,
        latents: torch.Tensor,
        generator: torch.Generator,
        *,
        kind: Hashable = (),
        encoders: Hashable = (),
    ) -> None:
        self.sampler = sampler
        self.latents = latents
        self.noise_dtype = latents.dtype
        self.kind = kind
        self.encoders = encoders
        self.negative_encoders = encoders
        self.generator = generator
        self.control: Any = None
        self.extra_channels: torch.Tensor | None = None
        self.guidance_input: Any = None
        self.inpainting: Inpainting | None = None
        self.step = 0
        self._timesteps: list[float] = sampler.timesteps.tolist()
        self.steps = len(self._timesteps)
        self._steps_before = 0
        self._successor: Denoising | None = None

    @classmethod
    def from_noise(cls, sampler: Steps, noise: torch.Tensor, generator: torch.Generator) -> Self:
        """Start from noise of variance 1."""
        return cls(sampler, noise * sampler.init_noise_sigma, generator)

    @property
    def plan(self) -> Plan | None:
        """The plan, unless a scheduler takes the steps."""
        return self.sampler if isinstance(self.sampler, Plan) else None

    @property
    def latents(self) -> torch.Tensor:
        """``(1, channels, height, width)``, scaled as the scheduler scales them."""
        return self.state[:1]

    @latents.setter
    def latents(self, latents: torch.Tensor) -> None:
        if self.plan is None:
            self.state = latents
        else:
            self.state = latents.new_zeros((ROWS, *latents.shape[1:]), dtype=torch.float32)
            self.state[:1] = latents

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
        return self.sampler.timesteps

    @property
    def timestep(self) -> float:
        """The timestep of the next forward pass."""
        return self._timesteps[self.step]

    def model_input(self) -> torch.Tensor:
        """The denoiser's input: scaled latents and the extra channels."""
        scaled = self.sampler.scaled(self.latents, self.step)
        if self.extra_channels is None:
            return scaled
        return torch.cat([scaled, self.extra_channels], dim=1)


def accepted_arguments(step: Any, **arguments: Any) -> dict[str, Any]:
    """The arguments that this scheduler's ``step`` accepts."""
    parameters = inspect.signature(step).parameters
    return {name: value for name, value in arguments.items() if name in parameters}


def noisy_sample(
    scheduler: Any, clean: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor
) -> torch.Tensor:
    """A sample at ``timestep``, ``(1,)``; flow-matching schedulers call it ``scale_noise``."""
    if hasattr(scheduler, "scale_noise"):
        noisy: torch.Tensor = scheduler.scale_noise(clean, timestep, noise)
    else:
        noisy = scheduler.add_noise(clean, noise, timestep)
    return noisy


def scaled_input(scheduler: Any, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """The denoiser's input; flow-matching schedulers do not scale it."""
    if not hasattr(scheduler, "scale_model_input"):
        return sample
    scaled: torch.Tensor = scheduler.scale_model_input(sample, timestep)
    return scaled
