"""A diffusers pipeline behind the ``Pipeline`` seam: loaded once, never changed by a request."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import DiffusionPipeline

from predictor.engine.seam import StepListener
from predictor.errors import ModelLoadError
from predictor.loading.tuning import PLAIN, Tuning
from predictor.pipelines.prompts import truncation_warning
from predictor.pipelines.schedulers import make_scheduler
from predictor.types import GenerationRequest, GenerationResult, ModelProfile

WARM_UP_STEPS = 2


class DiffusersPipeline:
    """One loaded pipeline; ``generate`` runs its own ``__call__`` for one picture at a time.

    ``device`` is where it computes, which under offloading is not where its weights lie; None asks
    the pipeline.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        profile: ModelProfile,
        device: torch.device | None = None,
        tuning: Tuning = PLAIN,
    ) -> None:
        self.diffusers = pipeline
        self.device: torch.device = device or pipeline.device
        self.tuning = tuning
        self._profile = profile
        parts = pipeline.components.items()
        self._tokenizers = [part for name, part in parts if name.startswith("tokenizer") and part]
        self._accepted = inspect.signature(type(pipeline).__call__).parameters

    @property
    def profile(self) -> ModelProfile:
        """See ``Pipeline.profile``."""
        return self._profile

    def warm_up(self) -> None:
        """Make one picture of few steps at the default size, so that no caller waits for it.

        Raises:
            ModelLoadError: it failed.
        """
        try:
            self.generate([self.warm_up_request()], lambda step, steps: None)
        except Exception as error:
            raise ModelLoadError(f"the warm-up picture failed: {error}") from error

    def warm_up_request(self) -> GenerationRequest:
        """What the model makes by default, in few steps."""
        request = self._profile.default_request("warm-up")
        return replace(request, num_inference_steps=WARM_UP_STEPS)

    def generate(
        self, requests: Sequence[GenerationRequest], on_step: StepListener
    ) -> list[GenerationResult]:
        """See ``Pipeline.generate``."""
        started = time.perf_counter()
        view = self._view(requests[0].scheduler)
        # A CPU generator draws the same noise whatever device the pipeline runs on.
        generators = [torch.Generator("cpu").manual_seed(request.seed) for request in requests]
        with torch.inference_mode():
            output = view(**self._arguments(requests, on_step), generator=generators)
        seconds = time.perf_counter() - started
        return [
            GenerationResult(request, image, seconds, warnings=self.warnings(request))
            for request, image in zip(requests, output.images, strict=True)
        ]

    def _view(self, scheduler: str) -> DiffusionPipeline:
        """The shared weights with a scheduler of the request's own."""
        view = copy.copy(self.diffusers)
        view.scheduler = make_scheduler(scheduler, self.diffusers.scheduler)
        return view

    def _arguments(
        self, requests: Sequence[GenerationRequest], on_step: StepListener
    ) -> dict[str, Any]:
        """The requests in diffusers' argument names, less those this pipeline does not take."""
        request = requests[0]

        def on_step_end(
            pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]
        ) -> dict[str, Any]:
            on_step(step + 1, getattr(pipeline, "num_timesteps", request.num_inference_steps))
            return tensors

        negative_prompts = [one.negative_prompt for one in requests]
        arguments = {
            "prompt": [one.prompt for one in requests],
            # None, not "": SDXL was trained with zeros where there is no negative prompt.
            "negative_prompt": negative_prompts if request.negative_prompt else None,
            "width": request.width,
            "height": request.height,
            "num_inference_steps": request.num_inference_steps,
            "guidance_scale": request.guidance_scale,
            "callback_on_step_end": on_step_end,
        }
        return {name: value for name, value in arguments.items() if name in self._accepted}

    def warnings(self, request: GenerationRequest) -> tuple[str, ...]:
        """The parts of the prompts that no text encoder reads."""
        fields = {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
        told = [truncation_warning(name, self._tokenizers, text) for name, text in fields.items()]
        return tuple(warning for warning in told if warning)
