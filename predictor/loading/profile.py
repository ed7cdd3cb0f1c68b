"""The profile of a loaded pipeline: its defaults, sizes, schedulers and tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffusers import DiffusionPipeline

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.checkpoint.configs import read_generation_defaults
from predictor.checkpoint.families import Family
from predictor.errors import ModelLoadError
from predictor.pipelines.schedulers import OWN, most_steps, scheduler_names
from predictor.pipelines.signature import (
    check_makes_pictures,
    default_of,
    takes_true_cfg,
    unused_fields,
)
from predictor.pipelines.stepwise import has_unet, max_clip_skip
from predictor.pipelines.tasks import tasks_of, tasks_with
from predictor.requests import GenerationDefaults, ModelProfile, Task

_USUAL_STEPS = 30
# The refiner was trained on the last 200 of 1,000 timesteps only.
_DENOISING_END = 0.8


def read_profile(
    pipeline: DiffusionPipeline, checkpoint: Checkpoint, *, has_refiner: bool
) -> ModelProfile:
    """Return the profile of the pipeline that was loaded from ``checkpoint``.

    Raises:
        ModelLoadError: the folder's generation defaults are invalid, or the pipeline does not make
            pictures.
    """
    check_makes_pictures(pipeline)
    family = checkpoint.family
    schedulers = _schedulers(family, pipeline)
    fallback = replace(
        _defaults(family, pipeline, schedulers),
        denoising_end=_DENOISING_END if has_refiner else None,
    )
    defaults = read_generation_defaults(checkpoint.folder, fallback)
    if defaults.scheduler not in schedulers:
        raise ModelLoadError(f"the default scheduler {defaults.scheduler!r} is unknown")
    return ModelProfile(
        checkpoint.marker.revision,
        defaults,
        _size_multiple(pipeline),
        schedulers,
        tasks=tasks_of(pipeline),
        has_refiner=has_refiner,
        family=family.name,
        unused_fields=unused_fields(pipeline),
        most_steps=_most_steps(pipeline, schedulers),
        max_sequence_length=_max_sequence_length(family, pipeline),
        max_clip_skip=max_clip_skip(pipeline),
        rescaled_tasks=_rescaled_tasks(pipeline),
        takes_true_cfg=takes_true_cfg(pipeline),
        reads_weighted_prompts=has_unet(pipeline),
    )


def _schedulers(family: Family, pipeline: DiffusionPipeline) -> tuple[str, ...]:
    own = getattr(pipeline, "scheduler", None)
    if own is None:
        return (OWN,)
    solving = scheduler_names(own, always_shifts=family.always_shifts)
    allowed = solving if family.schedulers is None else (*family.schedulers, OWN)
    return tuple(name for name in solving if name in allowed)


def _defaults(
    family: Family, pipeline: DiffusionPipeline, schedulers: tuple[str, ...]
) -> GenerationDefaults:
    """Return the family's defaults, and those of the pipeline's ``__call__`` for the rest."""
    steps, guidance = family.num_inference_steps, family.guidance_scale
    if steps is None:
        steps = int(default_of(pipeline, "num_inference_steps") or _USUAL_STEPS)
    if guidance is None:
        guidance = float(default_of(pipeline, "guidance_scale") or 0.0)
    side = _native_side(family, pipeline)
    return GenerationDefaults(
        width=int(default_of(pipeline, "width") or side),
        height=int(default_of(pipeline, "height") or side),
        num_inference_steps=steps,
        guidance_scale=guidance,
        scheduler=family.scheduler if family.scheduler in schedulers else OWN,
    )


def _most_steps(pipeline: DiffusionPipeline, schedulers: tuple[str, ...]) -> dict[str, int]:
    bounds = most_steps(getattr(pipeline, "scheduler", None))
    return {name: most for name, most in bounds.items() if name in schedulers}


def _max_sequence_length(family: Family, pipeline: DiffusionPipeline) -> int | None:
    own = default_of(pipeline, "max_sequence_length")
    return family.max_sequence_length or (int(own) if own else None)


def _rescaled_tasks(pipeline: DiffusionPipeline) -> tuple[Task, ...]:
    # Rescaling compares with the unguided prediction, which a UNet distilled for guidance lacks.
    if getattr(_denoiser_config(pipeline), "time_cond_proj_dim", None) is not None:
        return ()
    return tasks_with("guidance_rescale", pipeline)


def _denoiser_config(pipeline: DiffusionPipeline) -> Any:
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    return getattr(denoiser, "config", None)


def _native_side(family: Family, pipeline: DiffusionPipeline) -> int:
    """Return the side in pixels that the denoiser was trained at."""
    latent_side = getattr(_denoiser_config(pipeline), "sample_size", None)
    if not isinstance(latent_side, int):
        latent_side = family.latent_side
    return latent_side * int(getattr(pipeline, "vae_scale_factor", 8))


def _size_multiple(pipeline: DiffusionPipeline) -> int:
    """Return the pixels per latent patch, at least the 8 that diffusers' Stable Diffusion needs."""
    patch = getattr(_denoiser_config(pipeline), "patch_size", None) or 1
    processor = getattr(getattr(pipeline, "image_processor", None), "config", None) or {}
    # FLUX packs its patches outside the transformer; its image processor knows their size.
    packed = int(processor.get("vae_scale_factor") or 8)
    return max(8, int(getattr(pipeline, "vae_scale_factor", 8)) * int(patch), packed)
