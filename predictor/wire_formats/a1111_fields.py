"""The fields of A1111's ``txt2img`` and ``img2img``: what each means here, or why it is refused.

https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/master/modules/api/models.py
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from predictor.errors import InvalidRequestError
from predictor.requests.field_types import FormatName, WholeNumber
from predictor.requests.validation import shortened, validated
from predictor.wire_formats.a1111_prompts import read_prompt
from predictor.wire_formats.a1111_samplers import SCHEDULES, scheduler_of_pair
from predictor.wire_formats.a1111_support import (
    REFUSED,
    WITHOUT_EFFECT,
    check_names,
    check_settings,
    check_support,
)

# That of A1111; ``:predict`` has 0.8, and 1 with a mask.
_DENOISING_STRENGTH = 0.75
_MAX_MASK_BLUR = 64
_SCHEDULES = [*SCHEDULES, *(one.lower() for one in SCHEDULES), None]


class _Fields(BaseModel):
    """Fields of A1111. Like A1111, the server ignores unknown ones."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


def _field(kind: Any, description: str, **schema: Any) -> Any:
    return (kind | None, Field(None, description=description, json_schema_extra=schema or None))


# ``Any``, as the fields of a model that is built at run time are unknown to the type checker.
_common: Any = {
    "prompt": (str, Field(description="What the picture shows; `<lora:name:0.8>` adds a LoRA.")),
    "negative_prompt": _field(str, "What the picture should not show."),
    "seed": _field(WholeNumber, "-1 draws one."),
    "steps": _field(WholeNumber, "Denoising steps."),
    "cfg_scale": _field(float, "How closely the picture follows the prompt."),
    "width": _field(WholeNumber, "In pixels."),
    "height": _field(WholeNumber, "In pixels."),
    "sampler_name": _field(str, "One of `samplers`."),
    "sampler_index": _field(str, "The older name of `sampler_name`."),
    "scheduler": _field(str, "One of `schedulers`.", enum=_SCHEDULES),
    "batch_size": _field(WholeNumber, "Pictures, times `n_iter`; their seeds are consecutive."),
    "n_iter": _field(WholeNumber, "See `batch_size`."),
    "clip_skip": _field(WholeNumber, "As in SD.Next: 1 skips nothing.", minimum=0),
    "override_settings": _field(dict[str, Any], "Settings of A1111 for this request."),
    "alwayson_scripts": _field(dict[str, Any], "Only scripts without arguments."),
}
_of_img2img: Any = {
    "init_images": (list[str], Field(description="One picture as base64 or a data URI.")),
    "denoising_strength": _field(float, "The share of the steps that run; 0.75 by default."),
    "mask": _field(str, "White marks the area to repaint."),
    "mask_blur": _field(float, "Softens the edge of the mask: 0 to 64 pixels, 0 by default."),
    "mask_blur_x": _field(float, "`mask_blur` in one direction."),
    "mask_blur_y": _field(float, "`mask_blur` in one direction."),
    "inpainting_mask_invert": _field(WholeNumber, "1 repaints the black area."),
}


class _Settings(_Fields):
    """``override_settings`` that have a meaning here."""

    sd_model_checkpoint: str | None = None
    CLIP_stop_at_last_layers: WholeNumber | None = None
    samples_format: FormatName | None = None


Txt2ImgFields: type[BaseModel] = create_model(
    "Txt2ImgFields", __base__=_Fields, __doc__="A request for pictures, as A1111's.", **_common
)
Img2ImgFields: type[BaseModel] = create_model(
    "Img2ImgFields",
    __base__=_Fields,
    __doc__="A request to change a picture, as A1111's.",
    **_common | _of_img2img,
)
# The fields of the table as A1111 writes them.
_WRITTEN: Mapping[str, str] = {
    "num_inference_steps": "steps",
    "guidance_scale": "cfg_scale",
    "num_images_per_prompt": "batch_size x n_iter",
    # A1111 counts the layers from 1.
    "clip_skip": "clip_skip - 1",
    "image": "init_images[0]",
    "mask_image": "mask",
    "strength": "denoising_strength",
}
KNOWN = frozenset({*_common, *_of_img2img, *REFUSED, *WITHOUT_EFFECT})


@dataclass(frozen=True)
class MaskOptions:
    """How ``mask`` is changed before it is used; ``blur`` in pixels, in both directions."""

    is_inverted: bool
    blur: tuple[float, float]


@dataclass(frozen=True)
class A1111Request:
    """The values of the table's fields, how the caller wrote their names, and what A1111 adds.

    ``prompt`` has its tags. ``parameters`` are the fields of A1111 that the caller sent, without
    pictures.
    """

    values: dict[str, Any]
    written: dict[str, str]
    prompt: str
    batch_size: int
    parameters: dict[str, Any]
    mask: MaskOptions


def read_fields(document: dict[str, Any], *, has_image: bool) -> A1111Request:
    """Read the fields of one request.

    Raises:
        InvalidRequestError: names the field and the reason.
    """
    check_names(document, KNOWN)
    check_support(document)
    fields: Any = validated(Img2ImgFields if has_image else Txt2ImgFields, document)
    prompt = read_prompt(fields.prompt)
    sampler = fields.sampler_name or fields.sampler_index
    settings = _settings(fields.override_settings or {})
    values = {
        "prompt": prompt.text,
        "negative_prompt": fields.negative_prompt,
        "seed": fields.seed,
        "num_inference_steps": fields.steps,
        "guidance_scale": fields.cfg_scale,
        "width": fields.width,
        "height": fields.height,
        "scheduler": scheduler_of_pair(sampler, fields.scheduler),
        "num_images_per_prompt": _count(fields),
        "adapters": prompt.adapters or None,
        "clip_skip": _clip_skip(fields.clip_skip, settings.CLIP_stop_at_last_layers),
        "output_format": settings.samples_format,
    }
    if has_image:
        values |= _of_picture(fields)
    tags = {f"adapters[{index}]": tag for index, tag in enumerate(prompt.tags)}
    return A1111Request(
        {name: value for name, value in values.items() if value is not None},
        dict(_WRITTEN)
        | {"scheduler": "sampler_name" if fields.sampler_name else "sampler_index"}
        | {f"{place}.{part}": tag for place, tag in tags.items() for part in ("name", "scale")},
        fields.prompt,
        fields.batch_size or 1,
        fields.model_dump(exclude_none=True, exclude={"init_images", "mask"}),
        _mask_options(fields) if has_image else MaskOptions(False, (0, 0)),
    )


def checkpoint_of(document: Mapping[str, Any]) -> Any:
    """The model that ``override_settings`` names; None if it names none."""
    settings = document.get("override_settings")
    return (settings.get("sd_model_checkpoint") or None) if isinstance(settings, dict) else None


def _settings(given: dict[str, Any]) -> Any:
    """The settings with a meaning here."""
    check_settings(given, _Settings.model_fields)
    return validated(_Settings, given)


def _count(fields: Any) -> int | None:
    for name in ("batch_size", "n_iter"):
        value = getattr(fields, name)
        if value is not None and value < 1:
            raise InvalidRequestError(name, f"{shortened(value)} is below 1")
    if fields.batch_size is None and fields.n_iter is None:
        return None
    return int((fields.batch_size or 1) * (fields.n_iter or 1))


def _clip_skip(given: int | None, layers: int | None) -> int | None:
    """The skipped layers; None for none, as some models do not have the field."""
    last = layers if layers is not None else given
    return None if last in (None, 0, 1) else last - 1


def _of_picture(fields: Any) -> dict[str, Any]:
    strength = fields.denoising_strength
    return {
        "image": fields.init_images[0],
        "mask_image": fields.mask or None,
        "strength": _DENOISING_STRENGTH if strength is None else strength,
    }


def _mask_options(fields: Any) -> MaskOptions:
    blur = [_blur(fields, name) for name in ("mask_blur_x", "mask_blur_y")]
    if (invert := fields.inpainting_mask_invert) not in (None, 0, 1):
        raise InvalidRequestError("inpainting_mask_invert", f"{shortened(invert)} is not 0 or 1")
    return MaskOptions(bool(invert), (blur[0], blur[1]))


def _blur(fields: Any, direction: str) -> float:
    given: float | None = getattr(fields, direction)
    name = "mask_blur" if given is None else direction
    blur: float = getattr(fields, name) or 0
    if not 0 <= blur <= _MAX_MASK_BLUR:
        raise InvalidRequestError(name, f"{blur:g} is not between 0 and {_MAX_MASK_BLUR}")
    return blur
