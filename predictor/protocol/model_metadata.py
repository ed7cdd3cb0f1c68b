"""``GET /v2/models/{name}``: what a model is, and which requests it accepts.

The Open Inference Protocol defines the first five fields and allows further ones.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from predictor.requests import Limits, ModelProfile
from predictor.requests.fields import FIELDS
from predictor.settings import Settings


def model_metadata(name: str, profile: ModelProfile, settings: Settings) -> dict[str, Any]:
    """The answer for one loaded model, as JSON values."""
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
        "embeddings": list(profile.embeddings),
        "has_refiner": profile.has_refiner,
        "rescaled_tasks": list(profile.rescaled_tasks),
        "unused_fields": dict(profile.unused_fields),
        "defaults": asdict(profile.defaults),
        "limits": _limits(Limits(settings, profile)),
    }


def _inputs(profile: ModelProfile) -> list[dict[str, Any]]:
    """The scalar fields that this model supports."""
    return [
        _tensor(field.name, field.datatype)
        for field in FIELDS
        if field.datatype and field.reason_against(profile) is None
    ]


def _tensor(name: str, datatype: str) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [-1]}


def _limits(limits: Limits) -> dict[str, Any]:
    """The bounds that the table publishes, and those that join several fields."""
    published = {
        name: bound
        for field in FIELDS
        if field.reason_against(limits.profile) is None and (bounds := limits.bounds_of(field))
        for name, bound in zip(field.limits, bounds[:2], strict=True)
        if name
    }
    return published | {
        "size_multiple": limits.profile.size_multiple,
        "max_pixels": limits.settings.max_pixels,
        "most_steps": dict(limits.profile.most_steps),
    }
