"""What the protocol must know of a loaded pipeline: its defaults, its sizes, its schedulers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from predictor.errors import ModelLoadError
from predictor.families.generation_defaults import read_generation_defaults
from predictor.pipelines.schedulers import OWN, scheduler_names
from predictor.pipelines.tasks import tasks_of
from predictor.types import GenerationDefaults, ModelProfile

# Where the refiner's training began: it knows the last 200 of 1,000 timesteps.
_DENOISING_END = 0.8


def read_profile(
    pipeline: DiffusionPipeline, folder: Path, revision: str, *, has_refiner: bool = False
) -> ModelProfile:
    """The profile of the pipeline that was loaded from ``folder``.

    Raises:
        ModelLoadError: the folder's own defaults cannot be used.
    """
    schedulers = scheduler_names(pipeline.scheduler)
    side = _native_side(pipeline)
    fallback = GenerationDefaults(
        width=side,
        height=side,
        num_inference_steps=30,
        guidance_scale=7.5,
        scheduler="unipc" if "unipc" in schedulers else OWN,
        denoising_end=_DENOISING_END if has_refiner else None,
    )
    defaults = read_generation_defaults(folder, fallback)
    if defaults.scheduler not in schedulers:
        raise ModelLoadError(f"the default scheduler {defaults.scheduler!r} is not known")
    return ModelProfile(
        revision,
        defaults,
        _size_multiple(pipeline),
        schedulers,
        tasks=tasks_of(pipeline),
        has_refiner=has_refiner,
    )


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
