"""What the fields of a request mean: one prompt's values to one request for each picture."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from predictor.requests.generation import (
    DEFAULT_STRENGTH,
    Adapter,
    ControlNetInput,
    GenerationRequest,
    task_of,
)
from predictor.requests.input_images import PictureSource, size_from_image
from predictor.requests.limits import Limits
from predictor.requests.model_profile import ModelProfile

# A random seed is short enough to type.
_RANDOM_SEED_BITS = 32
# As in other servers: the same as no seed.
_ANY_SEED = -1


def generation_requests(
    given: Mapping[str, Any], limits: Limits, images: PictureSource
) -> tuple[GenerationRequest, ...]:
    """One request for each picture: the first with the seed, the others with the next ones.

    ``given`` maps the names of ``fields.FIELDS`` to values of their types. ``output_format``,
    ``previews`` and ``timeout`` are left to the protocol.

    Raises:
        InvalidRequestError: names the field and the reason.
    """
    values = _effective(given, limits.profile)
    if "image" in given:
        values |= size_from_image(images.size("image", given["image"]), given, limits)
    limits.check_values(values, given)
    count = values.pop("num_images_per_prompt", 1)
    first_seed = values.pop("seed")
    for name in ("output_format", "previews", "timeout"):
        values.pop(name, None)
    values |= _typed(values, images)
    return tuple(GenerationRequest(seed=first_seed + index, **values) for index in range(count))


def _effective(given: Mapping[str, Any], profile: ModelProfile) -> dict[str, Any]:
    """The given values, with defaults for the rest."""
    defaults: dict[str, Any] = {"negative_prompt": ""} | asdict(profile.defaults)
    if "image" in given:
        task = task_of(has_image=True, has_mask="mask_image" in given)
        defaults["strength"] = DEFAULT_STRENGTH[task]
    if profile.has_refiner and "mask_image" in given:
        # The refiner does not support inpainting: the base runs all steps.
        defaults["denoising_end"] = 1.0
    values = defaults | dict(given)
    if values.get("seed", _ANY_SEED) == _ANY_SEED:
        values["seed"] = secrets.randbits(_RANDOM_SEED_BITS)
    return {name: value for name, value in values.items() if value is not None}


def _typed(values: Mapping[str, Any], images: PictureSource) -> dict[str, Any]:
    """The fields that are not scalars, in the types of a request."""
    size = (values["width"], values["height"])
    typed: dict[str, Any] = {}
    if "image" in values:
        typed["image"] = images.picture("image", values["image"], size)
    if "mask_image" in values:
        typed["mask_image"] = images.mask("mask_image", values["mask_image"], size)
    if "adapters" in values:
        adapters = [Adapter(**one) for one in values["adapters"]]
        # Their order has no meaning, and must not keep requests from sharing a pass.
        typed["adapters"] = tuple(sorted(adapters, key=lambda adapter: adapter.name))
    if "controlnet" in values:
        controlnet = values["controlnet"]
        image = images.picture("controlnet.image", controlnet["image"], size)
        typed["controlnet"] = ControlNetInput(**controlnet | {"image": image})
    return typed
