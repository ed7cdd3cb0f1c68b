"""A diffusers pipeline as the engine's ``Pipeline``; requests do not modify it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from predictor.engine.interfaces import StepListener
from predictor.errors import ModelLoadError
from predictor.pipelines.adapters import Adapters
from predictor.pipelines.controlnet import ControlNets
from predictor.pipelines.cuda_graphs import CudaGraphs
from predictor.pipelines.prompts import TruncationWarnings, windows
from predictor.pipelines.schedulers import generator_for, make_scheduler
from predictor.pipelines.signature import parameters
from predictor.pipelines.tasks import pipeline_for
from predictor.pipelines.textual_inversion import Embeddings
from predictor.pipelines.tuning import PLAIN, Tuning
from predictor.requests import GenerationRequest, GenerationResult, ModelProfile, Task
from predictor.stages import StageClock

WARM_UP_STEPS = 2
# The sides of the warm-up picture on a CPU: a fraction of the default, and at least this.
_SMALLER = 8
_LEAST_SIDE = 64


class DiffusersPipeline:
    """One loaded pipeline; ``generate`` runs its ``__call__``.

    ``device`` is where it computes; under offloading the weights are stored elsewhere. None means
    the pipeline's own device. ``refiner`` is for the step loop; ``generate`` does not use it.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        profile: ModelProfile,
        device: torch.device | None = None,
        tuning: Tuning = PLAIN,
        *,
        adapter_files: Mapping[str, Path] | None = None,
        controlnets: ControlNets | None = None,
        embeddings: Embeddings | None = None,
        refiner: DiffusersPipeline | None = None,
    ) -> None:
        self.diffusers = pipeline
        self.device: torch.device = device or pipeline.device
        self.tuning = tuning
        self.refiner = refiner
        self.adapters = Adapters(pipeline, adapter_files)
        self.controlnets = controlnets or ControlNets()
        self.embeddings = embeddings or Embeddings()
        self.graphs = CudaGraphs()
        self._profile = replace(
            profile,
            adapters=self.adapters.names,
            controlnets=self.controlnets.names,
            embeddings=self.embeddings.names,
        )
        self._truncation_warnings = TruncationWarnings(
            windows(pipeline.components, profile.max_sequence_length)
        )
        self._views: dict[Task, DiffusionPipeline] = {}

    @property
    def profile(self) -> ModelProfile:
        """See ``Pipeline.profile``."""
        return self._profile

    def warm_up(self) -> None:
        """Make one picture of few steps with diffusers' own call.

        Raises:
            ModelLoadError: the picture failed, or it came out as NaN or infinity.
        """
        try:
            self.generate([self.warm_up_request()], lambda step, steps: None)
        except Exception as error:
            raise ModelLoadError(f"the warm-up picture failed: {error}") from error

    def warm_up_request(self) -> GenerationRequest:
        """Return the model's default request with few steps, on a CPU one step of a small picture.

        On a GPU, the first picture of a size selects kernels and reserves memory. On a CPU it is
        as fast as all others, but a full-size picture takes minutes.
        """
        defaults = replace(self._profile.defaults, num_inference_steps=WARM_UP_STEPS)
        if self.device.type == "cpu":
            width, height = map(self._small_side, (defaults.width, defaults.height))
            defaults = replace(defaults, num_inference_steps=1, width=width, height=height)
        return replace(self._profile, defaults=defaults).default_request("warm-up")

    def _small_side(self, side: int) -> int:
        multiple = self._profile.size_multiple
        small = max(_LEAST_SIDE, side // _SMALLER)
        return min(side, -(-small // multiple) * multiple)

    def generate(
        self, requests: Sequence[GenerationRequest], on_step: StepListener
    ) -> list[GenerationResult]:
        """See ``Pipeline.generate``."""
        started = time.perf_counter()
        self.adapters.use(requests[0].adapters)
        view = self._view(requests[0])
        generators = [generator_for(request) for request in requests]
        clock = _timed(view, started)

        def on_timed_step(step: int, steps: int) -> None:
            if step == steps:
                clock.enter("decode")
            on_step(step, steps)

        with torch.inference_mode():
            output = view(**self._arguments(view, requests, on_timed_step), generator=generators)
        stages = clock.stages()
        seconds = time.perf_counter() - started
        return [
            GenerationResult(
                request, image, seconds, warnings=self.warnings(request), stages=stages
            )
            for request, image in zip(requests, output.images, strict=True)
        ]

    def _view(self, request: GenerationRequest) -> DiffusionPipeline:
        """Return the task's pipeline over the shared weights, with a scheduler for the request."""
        if request.task not in self._views:
            self._views[request.task] = pipeline_for(request.task, self.diffusers)
        view = _checked(self._views[request.task])
        own = getattr(view, "scheduler", None)
        if own is not None:
            view.scheduler = make_scheduler(request.scheduler, own)
        return view

    def _arguments(
        self,
        view: DiffusionPipeline,
        requests: Sequence[GenerationRequest],
        on_step: StepListener,
    ) -> dict[str, Any]:
        """Map the requests to diffusers' arguments, without those this pipeline does not accept."""
        request = requests[0]

        def on_step_end(
            pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]
        ) -> dict[str, Any]:
            on_step(step + 1, getattr(pipeline, "num_timesteps", request.num_inference_steps))
            return tensors

        negative_prompts = [one.negative_prompt for one in requests]
        arguments: dict[str, Any] = {
            "prompt": [one.prompt for one in requests],
            # None, not "": SDXL was trained with zeros for a missing negative prompt.
            "negative_prompt": negative_prompts if request.negative_prompt else None,
            "width": request.width,
            "height": request.height,
            "num_inference_steps": request.num_inference_steps,
            "guidance_scale": request.guidance_scale,
            "guidance_rescale": request.guidance_rescale,
            "true_cfg_scale": request.true_cfg_scale,
            "max_sequence_length": self._profile.max_sequence_length,
            "callback_on_step_end": on_step_end,
            **_images(requests),
        }
        accepted = parameters(view).keys() - self._profile.unused_fields.keys()
        if "callback_on_step_end" not in accepted:
            # The older form, which PixArt still uses.
            arguments["callback"] = lambda step, *_: on_step(step + 1, request.num_inference_steps)
        return {
            name: value
            for name, value in arguments.items()
            if name in accepted and value is not None
        }

    def warnings(self, request: GenerationRequest) -> tuple[str, ...]:
        """Return a warning for each prompt that all text encoders truncate."""
        if request.is_weighted:
            return ()
        fields = {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
        found = [self._truncation_warnings.of(name, text) for name, text in fields.items()]
        return tuple(warning for warning in found if warning)


def check_finite(image: Any) -> None:
    """Check an image or its latents, a tensor or an array.

    PIL shows NaN as black, which a model may also draw, so the check comes before the conversion.

    Raises:
        ArithmeticError: it contains NaN or infinity.
    """
    if not torch.isfinite(torch.as_tensor(image)).all():
        raise ArithmeticError("the picture came out as NaN or infinity")


def _checked(pipeline: DiffusionPipeline) -> Any:
    """Return a shallow copy that checks decoded images before it converts them to PIL."""
    view: Any = copy.copy(pipeline)
    # The converter of the few classes without an image processor, such as Kandinsky's.
    view.numpy_to_pil = _after_check(view.numpy_to_pil)
    processor: Any = copy.copy(getattr(view, "image_processor", None))
    if hasattr(processor, "postprocess"):
        # It clamps the image, which would turn infinity into a white pixel.
        processor.postprocess = _after_check(processor.postprocess)
        view.image_processor = processor
    return view


def _timed(view: Any, started: float) -> StageClock:
    """A clock of the stages of one call: the copy reports the end of its text encoding.

    All preparation counts as denoising for the few classes without ``encode_prompt``.
    """
    encode_prompt = getattr(view, "encode_prompt", None)
    if encode_prompt is None:
        return StageClock("denoise", started)
    clock = StageClock("prepare", started)

    def timed(*arguments: Any, **options: Any) -> Any:
        # Once; the reference to itself would also keep the weights in memory.
        del view.encode_prompt
        clock.enter("text")
        encoded = encode_prompt(*arguments, **options)
        clock.enter("denoise")
        return encoded

    view.encode_prompt = timed
    return clock


def _after_check(convert: Callable[..., Any]) -> Callable[..., Any]:
    def checked(image: Any, *arguments: Any, **options: Any) -> Any:
        check_finite(image)
        return convert(image, *arguments, **options)

    return checked


def _images(requests: Sequence[GenerationRequest]) -> dict[str, Any]:
    """Return the image arguments; all requests of a batch have the same ones."""
    given = {
        "image": [one.image.image for one in requests if one.image],
        "mask_image": [one.mask_image.image for one in requests if one.mask_image],
        "strength": requests[0].strength,
    }
    return {name: value for name, value in given.items() if value}
