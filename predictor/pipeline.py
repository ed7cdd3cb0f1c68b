"""A diffusers pipeline behind the ``Pipeline`` seam: loaded once, never changed by a request."""

from __future__ import annotations

import copy
import inspect
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from modelstore import IncompleteModelError, Marker
from modelstore.layout import MODEL_INDEX_NAME
from predictor.device import pick_device, pick_dtype
from predictor.engine.seam import StepListener
from predictor.errors import ModelLoadError
from predictor.generation_defaults import read_generation_defaults
from predictor.prompts import truncation_warning
from predictor.schedulers import OWN, make_scheduler, scheduler_names
from predictor.settings import Settings
from predictor.types import (
    GenerationDefaults,
    GenerationRequest,
    GenerationResult,
    ModelProfile,
)

WARM_UP_STEPS = 2


def load_pipeline(settings: Settings) -> DiffusersPipeline:
    """Load the published model folder and make one picture with it.

    Raises:
        ModelLoadError: the folder is incomplete, does not load, or makes no picture.
    """
    marker = _read_marker(settings.model_dir)
    device = pick_device(settings)
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            settings.model_dir,
            dtype=pick_dtype(settings, device),
            variant=marker.variant,
            use_safetensors=True,
            local_files_only=True,
            **_absent_components(settings.model_dir),
        ).to(device)
    except Exception as error:
        raise ModelLoadError(f"model {marker.name!r} does not load: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    loaded = DiffusersPipeline(pipeline, _profile(pipeline, settings.model_dir, marker.revision))
    loaded.warm_up()
    return loaded


def _absent_components(folder: Path) -> dict[str, None]:
    """The components that the index leaves empty (SD3 without T5), which diffusers must be told."""
    index = json.loads((folder / MODEL_INDEX_NAME).read_text(encoding="utf-8"))
    return {name: None for name, entry in index.items() if entry == [None, None]}


def _read_marker(folder: Path) -> Marker:
    try:
        marker = Marker.read(folder)
        marker.check_sizes(folder)
    except IncompleteModelError as error:
        raise ModelLoadError(
            f"{error}; let the downloader finish (`kubectl get jobs`), or publish a folder with "
            "`python -m downloader --source hf://owner/name --name NAME --target VOLUME` and serve "
            "VOLUME/NAME"
        ) from None
    return marker


def _profile(pipeline: DiffusionPipeline, folder: Path, revision: str) -> ModelProfile:
    schedulers = scheduler_names(pipeline.scheduler)
    side = _native_side(pipeline)
    fallback = GenerationDefaults(
        width=side,
        height=side,
        num_inference_steps=30,
        guidance_scale=7.5,
        scheduler="unipc" if "unipc" in schedulers else OWN,
    )
    defaults = read_generation_defaults(folder, fallback)
    if defaults.scheduler not in schedulers:
        raise ModelLoadError(f"the default scheduler {defaults.scheduler!r} is not known")
    return ModelProfile(revision, defaults, _size_multiple(pipeline), schedulers)


def _denoiser_config(pipeline: DiffusionPipeline) -> Any:
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    if denoiser is None:
        raise ModelLoadError(f"{type(pipeline).__name__} has no unet and no transformer")
    return denoiser.config


def _native_side(pipeline: DiffusionPipeline) -> int:
    """The side in pixels that the denoiser was trained at."""
    latent_side = getattr(_denoiser_config(pipeline), "sample_size", None) or 128
    return int(latent_side) * int(getattr(pipeline, "vae_scale_factor", 8))


def _size_multiple(pipeline: DiffusionPipeline) -> int:
    """Pixels per latent patch, and at least the 8 that diffusers' Stable Diffusion asks for."""
    patch = getattr(_denoiser_config(pipeline), "patch_size", None) or 1
    return max(8, int(getattr(pipeline, "vae_scale_factor", 8)) * int(patch))


class DiffusersPipeline:
    """One loaded pipeline; ``generate`` runs its own ``__call__`` for one picture at a time."""

    def __init__(self, pipeline: DiffusionPipeline, profile: ModelProfile) -> None:
        self.diffusers = pipeline
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
