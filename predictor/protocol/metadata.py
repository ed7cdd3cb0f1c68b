"""``GET /v2/models/{name}``: what a model is, what it takes, and what of it may be asked for.

The Open Inference Protocol names the first five fields and allows others beside them.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from predictor.limits import MAX_SEED, MIN_SIDE
from predictor.requests import ModelProfile
from predictor.settings import Settings

# The fields that are one number or text each, as the protocol names their types.
INPUT_TYPES = {
    "prompt": "BYTES",
    "negative_prompt": "BYTES",
    "seed": "INT64",
    "width": "INT64",
    "height": "INT64",
    "num_inference_steps": "INT64",
    "guidance_scale": "FP64",
    "scheduler": "BYTES",
    "image": "BYTES",
    "mask_image": "BYTES",
    "strength": "FP64",
    "denoising_end": "FP64",
    "num_images_per_prompt": "INT64",
    "output_format": "BYTES",
}


def model_metadata(name: str, profile: ModelProfile, settings: Settings) -> dict[str, Any]:
    """The answer for one loaded model, as JSON has it."""
    return {
        "name": name,
        "versions": [profile.revision],
        "platform": "diffusers",
        "inputs": _inputs(profile),
        "outputs": [_tensor("image", "BYTES"), _tensor("seed", "INT64")],
        "family": profile.family,
        "tasks": list(profile.tasks),
        "schedulers": list(profile.schedulers),
        "adapters": list(profile.adapters),
        "controlnets": list(profile.controlnets),
        "has_refiner": profile.has_refiner,
        "unused_fields": dict(profile.unused_fields),
        "defaults": asdict(profile.defaults),
        "limits": _limits(profile, settings),
    }


def _inputs(profile: ModelProfile) -> list[dict[str, Any]]:
    """Those that this model follows."""
    absent = set(profile.unused_fields)
    if "image-to-image" not in profile.tasks and "inpainting" not in profile.tasks:
        absent |= {"image", "strength"}
    if "inpainting" not in profile.tasks:
        absent.add("mask_image")
    if not profile.has_refiner:
        absent.add("denoising_end")
    return [_tensor(name, kind) for name, kind in INPUT_TYPES.items() if name not in absent]


def _tensor(name: str, datatype: str) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [-1]}


def _limits(profile: ModelProfile, settings: Settings) -> dict[str, Any]:
    return {
        "min_side": MIN_SIDE,
        "max_side": settings.max_side,
        "size_multiple": profile.size_multiple,
        "max_pixels": settings.max_pixels,
        "max_num_inference_steps": settings.max_num_inference_steps,
        "most_steps": dict(profile.most_steps),
        "max_guidance_scale": settings.max_guidance_scale,
        "max_prompt_length": settings.max_prompt_length,
        "max_images_per_request": settings.max_images_per_request,
        "max_seed": MAX_SEED,
    }
