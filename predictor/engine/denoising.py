"""Denoises one picture by a plan, or by a scheduler of its own where no plan fits."""

from __future__ import annotations

import inspect
from collections.abc import Hashable
from typing import Any, NamedTuple, TypeAlias

import torch

from predictor.engine.clean_sample import CleanWeights, clean_weights
from predictor.engine.noise import Drawn, NoiseAhead
from predictor.engine.plan import ROWS, Plan
from predictor.engine.transfers import upload_numbers


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

    def clean_weights(self, step: int) -> CleanWeights:
        """See ``Plan.clean_weights``; before the scheduler takes that step."""
        return clean_weights(self._scheduler, level_of(self._scheduler, self.timesteps[step]))

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

    ``original``, ``(2, channels, height, width)``, holds the clean latents and their noise.
    ``mask``, ``(1, 1, height, width)``, is 1 in the area to repaint.
    """

    original: torch.Tensor
    mask: torch.Tensor


class Denoising:
    """The state of one picture between two steps.

    With a plan, the latents are float32, and ``state`` is ``(1 + kept tensors, channels, height,
    width)``; its first entry are the latents. Jobs of equal ``kind`` share a forward pass, prompts
    with equal ``encoders`` share an encoding (``negative_encoders``, by default the same, for the
    negative prompt), and ``control`` holds a ControlNet's state of the picture. ``extra_channels``,
    ``(1, channels, height, width)``, are appended to the latents in the denoiser's input.
    ``weights_dtype``, by default that of ``latents``, is the dtype of that input and of the noise.
    ``guidance_input``, ``()`` on the device, is the guidance scale for a network that takes it as
    an input. ``network_timesteps``, one for each pass, by default those of the sampler, are the
    timesteps that the network takes; it gets them in float32.

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
        negative_encoders: Hashable | None = None,
        control: Any = None,
        extra_channels: torch.Tensor | None = None,
        inpainting: Inpainting | None = None,
        weights_dtype: torch.dtype | None = None,
        network_timesteps: torch.Tensor | None = None,
        guidance_input: torch.Tensor | None = None,
    ) -> None:
        self.sampler = sampler
        self.latents = latents
        self.weights_dtype = weights_dtype or latents.dtype
        self.kind = kind
        self.encoders = encoders
        self.negative_encoders = encoders if negative_encoders is None else negative_encoders
        self.generator = generator
        self.control = control
        self.extra_channels = extra_channels
        self.inpainting = inpainting
        self.guidance_input = guidance_input
        self.step = 0
        self._timesteps: list[float] = sampler.timesteps.tolist()
        taken = sampler.timesteps if network_timesteps is None else network_timesteps
        self._device_timesteps = upload_numbers(taken, latents.device)
        self._noise = NoiseAhead(generator, latents.shape)
        self.steps = len(self._timesteps)
        self._steps_before = 0
        self._successor: Denoising | None = None

    def draw_ahead(self) -> None:
        """Start to draw the noise of the next step on another thread, if that step draws noise."""
        dtype = self._noise_dtype
        if dtype is not None:
            self._noise.start(self.step, dtype)

    def next_noise(self) -> Drawn | None:
        """The noise of the next step, or None if it draws none; repeatable until the step is done.

        Only with a plan; a scheduler of its own draws by itself.
        """
        dtype = self._noise_dtype
        return None if dtype is None else self._noise.get(self.step, dtype)

    @property
    def _noise_dtype(self) -> torch.dtype | None:
        if self.plan is None or self.is_done:
            return None
        draw = self.plan.draws[self.step]
        if draw == "none":
            return None
        return torch.float32 if draw == "float32" else self.weights_dtype

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

    @property
    def device_timestep(self) -> torch.Tensor:
        """The same as the network takes it, ``()`` on the device of the latents."""
        return self._device_timesteps[self.step]

    def clean_sample(self, prediction: torch.Tensor) -> torch.Tensor:
        """The clean latents that the denoiser predicts in the next step, before it is taken."""
        return self.sampler.clean_weights(self.step).clean(self.latents, prediction)

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


def level_of(scheduler: Any, timestep: torch.Tensor) -> tuple[float, float]:
    """The weights of the clean sample and of the noise; (0, 1) if the scheduler adds no noise."""
    if not (hasattr(scheduler, "add_noise") or hasattr(scheduler, "scale_noise")):
        return 0.0, 1.0
    clean, noise = torch.eye(2, dtype=torch.float64).reshape(2, 1, 1, 1, 2)
    noisy = noisy_sample(scheduler, clean, noise, timestep.reshape(1)).flatten()
    return float(noisy[0]), float(noisy[1])


def scaled_input(scheduler: Any, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """The denoiser's input; flow-matching schedulers do not scale it."""
    if not hasattr(scheduler, "scale_model_input"):
        return sample
    scaled: torch.Tensor = scheduler.scale_model_input(sample, timestep)
    return scaled
