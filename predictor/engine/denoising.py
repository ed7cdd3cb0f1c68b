"""One picture's way from noise to latents, by a scheduler object of its own."""

from __future__ import annotations

import inspect
from typing import Any

import torch


class Denoising:
    """The state of one picture between two steps, with the interface of diffusers' schedulers.

    The timesteps stay on the CPU, so that no step waits for a GPU to tell them.
    """

    def __init__(
        self,
        scheduler: Any,
        num_inference_steps: int,
        noise: torch.Tensor,
        generator: torch.Generator,
    ) -> None:
        scheduler.set_timesteps(num_inference_steps)
        # Heun and PNDM take more forward passes than they were asked for steps.
        self._timesteps = scheduler.timesteps
        self._scheduler = scheduler
        self._step_arguments = _accepted(scheduler.step, eta=0.0, generator=generator)
        self.latents = noise * scheduler.init_noise_sigma
        self.step = 0

    @property
    def steps(self) -> int:
        """How many forward passes the picture takes."""
        return len(self._timesteps)

    @property
    def is_done(self) -> bool:
        """Whether ``latents`` are ready to be decoded."""
        return self.step == self.steps

    @property
    def timestep(self) -> float:
        """Where the next forward pass stands."""
        return float(self._timesteps[self.step])

    def model_input(self) -> torch.Tensor:
        """The latents as the denoiser is to see them."""
        scaled: torch.Tensor = self._scheduler.scale_model_input(
            self.latents, self._timesteps[self.step]
        )
        return scaled

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


def _accepted(step: Any, **arguments: Any) -> dict[str, Any]:
    """Those of the arguments that this scheduler's ``step`` has."""
    parameters = inspect.signature(step).parameters
    return {name: value for name, value in arguments.items() if name in parameters}
