"""One picture's way from noise to latents, by a scheduler object of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from typing import Any, Self

import torch


class Denoising:
    """The state of one picture between two steps, with the interface of diffusers' schedulers.

    ``timesteps`` are what the scheduler, set to its steps, is taken through; they stay on the CPU,
    so that no step waits for a GPU to tell them. ``latents`` are as the scheduler scales them.
    ``kind`` and ``encoders`` are the denoiser's own words: jobs share a forward pass where their
    kinds are equal, and prompts their encoding where the encoders are; ``negative_encoders`` are
    those of the negative prompt. ``control`` is what it keeps for itself from step to step: that by
    which a ControlNet steers the picture.

    ``extra_channels``, ``(1, channels, height, width)``, are what the denoiser sees behind the
    latents; ``after_step`` takes these and the number of steps done, and says what they become.

    ``step`` of its ``steps`` forward passes are done. Where another expert goes on after them,
    ``hand_over_after`` says so; both draw from one ``generator``, one after the other.
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
        """All the way, from noise with the variance 1 to a picture."""
        scheduler.set_timesteps(num_inference_steps)
        # Heun and PNDM take more forward passes than they were asked for steps.
        latents = noise * scheduler.init_noise_sigma
        return cls(scheduler, scheduler.timesteps, latents, generator)

    def hand_over_after(self, steps: int, successor: Denoising) -> None:
        """Let another expert go on after so many steps, from the latents as they are by then."""
        self.steps = steps
        self._successor = successor
        successor._steps_before = steps

    @property
    def experts(self) -> tuple[Denoising, ...]:
        """This one and who goes on after it."""
        return (self,) if self._successor is None else (self, *self._successor.experts)

    def next_stage(self) -> Denoising:
        """What takes the next step: the successor, once this one has taken all of its own."""
        if self._successor is None or self.step < self.steps:
            return self
        self._successor.latents = self.latents
        return self._successor

    @property
    def steps_done(self) -> int:
        """How many forward passes are done, those of the experts before included."""
        return self._steps_before + self.step

    @property
    def total_steps(self) -> int:
        """How many forward passes the picture takes, by all of its experts."""
        return self._steps_before + sum(expert.steps for expert in self.experts)

    @property
    def is_done(self) -> bool:
        """Whether all steps are taken."""
        return self.step == self.steps

    @property
    def timesteps(self) -> torch.Tensor:
        """Where each forward pass stands, to the end of the way, whoever takes it."""
        return self._timesteps

    @property
    def timestep(self) -> float:
        """Where the next forward pass stands."""
        return float(self._timesteps[self.step])

    def model_input(self) -> torch.Tensor:
        """The latents as the denoiser is to see them."""
        scaled: torch.Tensor = self._scheduler.scale_model_input(
            self.latents, self._timesteps[self.step]
        )
        if self.extra_channels is None:
            return scaled
        return torch.cat([scaled, self.extra_channels], dim=1)

    def advance(self, noise_prediction: torch.Tensor) -> None:
        """Go one step."""
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
    """Those of the arguments that this scheduler's ``step`` has."""
    parameters = inspect.signature(step).parameters
    return {name: value for name, value in arguments.items() if name in parameters}
