"""The fields of OpenAI's Images API, in addition to those of the table.

https://platform.openai.com/docs/api-reference/images
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, create_model

from predictor.errors import InvalidRequestError
from predictor.images import OutputFormat
from predictor.requests import Limits
from predictor.requests.field_types import WholeNumber
from predictor.requests.validation import Document, Parameters, given, spellings, validated

Quality = Literal["low", "medium", "high", "xhigh", "max"]
# The factor on the model's default number of steps.
STEP_FACTORS: Mapping[Quality, float] = {
    "low": 0.5,
    "medium": 1.0,
    "high": 1.5,
    "xhigh": 2.0,
    "max": 3.0,
}
_QUALITIES: Mapping[str, Quality] = {"auto": "medium", "standard": "medium", "hd": "high"}
_MAX_PARTIAL_IMAGES = 3
_QUALITY_HELP = (
    "Without `num_inference_steps`, multiplies the model's default: "
    + ", ".join(f"`{name}` by {factor:g}" for name, factor in STEP_FACTORS.items())
    + "; `auto` and `standard` are `medium`, `hd` is `high`."
)

_MAX_COMPRESSION = 100
_MAX_PARTIAL_IMAGES = 3

# What OpenAI's fields cannot do here, by name; the values that are refused, or all.
REFUSED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "background": (("transparent",), "the models make opaque pictures: omit it or send `opaque`"),
    "response_format": (("url",), "the server stores no pictures: send `b64_json`"),
    "frame_count": ((), "the server makes no animations"),
    "frame_duration_ms": ((), "the server makes no animations"),
    "svg": ((), "the server makes no vector graphics"),
    "markup": ((), "the models read no drawn instructions: use `mask`"),
}


def _without_effect() -> Any:
    return Field(None, description="Accepted without an effect.")


# ``Any``, as the fields of a model that is built at run time are unknown to the type checker.
_fields: Any = {
    "prompt": (str, Field(description="What the picture shows.")),
    "model": (str | None, Field(None, description="A served model; optional if it is the only.")),
    "quality": (
        Literal[*STEP_FACTORS, *_QUALITIES] | None,
        Field(None, description=_QUALITY_HELP),
    ),
    "background": (Literal["auto", "opaque"] | None, None),
    "output_compression": (
        WholeNumber | None,
        Field(
            None,
            description="The quality of JPEG and WebP; 92 by default.",
            json_schema_extra={"minimum": 0, "maximum": _MAX_COMPRESSION},
        ),
    ),
    "response_format": (Literal["b64_json"] | None, None),
    "stream": (
        bool | None,
        Field(None, description="Whether the response is a stream of events."),
    ),
    "partial_images": (
        WholeNumber | None,
        Field(
            None,
            description="How many previews a stream of one picture sends at most.",
            json_schema_extra={"minimum": 0, "maximum": _MAX_PARTIAL_IMAGES},
        ),
    ),
    "moderation": (Literal["auto", "low"] | None, _without_effect()),
    "style": (Literal["vivid", "natural"] | None, _without_effect()),
    "complexity": (Literal["low", "medium", "high"] | None, _without_effect()),
    "input_fidelity": (Literal["low", "high"] | None, _without_effect()),
    "user": (str | None, _without_effect()),
    "safety_identifier": (str | None, _without_effect()),
}

ImageFields: type[Document] = create_model(
    "ImageFields",
    __base__=Parameters,
    __doc__="A request for pictures in the form of OpenAI's Images API.",
    **_fields,
)

IS_TEXT: Mapping[str, bool] = {
    name: name not in ("stream", "partial_images", "output_compression") for name in _fields
}
"""The fields that are not in the table, and whether a value is text."""


@dataclass(frozen=True)
class ImageOptions:
    """What a response depends on in addition to the pictures."""

    quality: Quality
    is_stream: bool
    compression: int | None


def read_fields(
    document: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, str], ImageOptions]:
    """The values of the table's fields, how the caller wrote their names, and the options.

    Raises:
        InvalidRequestError: names the field and the reason.
    """
    _check_support(document)
    if document.get("size") == "auto":
        document = {name: value for name, value in document.items() if name != "size"}
    body: Any = validated(ImageFields, document)
    values = given(body)
    _check_between("partial_images", body.partial_images, _MAX_PARTIAL_IMAGES)
    _check_between("output_compression", body.output_compression, _MAX_COMPRESSION)
    quality = _QUALITIES.get(body.quality or "auto", body.quality)
    _check_compression(body.output_compression, values.get("output_format", "png"))
    if body.partial_images is not None:
        values["previews"] = body.partial_images
    options = ImageOptions(quality, bool(body.stream), body.output_compression)
    written = dict(spellings(document))
    if "size" in document:
        written["width x height"] = "size"
    if body.partial_images is not None:
        written["previews"] = "partial_images"
    return values, written, options


def _check_support(document: Mapping[str, Any]) -> None:
    for name, (refused, reason) in REFUSED.items():
        value = document.get(name)
        if value is not None and (not refused or value in refused):
            raise InvalidRequestError(name, reason)


def _check_between(name: str, value: int | None, most: int) -> None:
    if value is not None and not 0 <= value <= most:
        raise InvalidRequestError(name, f"{value} is not between 0 and {most}")


def _check_compression(compression: int | None, output_format: OutputFormat) -> None:
    if compression not in (None, 100) and output_format == "png":
        raise InvalidRequestError(
            "output_compression", "PNG is lossless: omit it, or set output_format"
        )


def steps_of_quality(quality: Quality, values: Mapping[str, Any], limits: Limits) -> dict[str, int]:
    """The model's default number of steps times the factor of ``quality``, within the bounds.

    Empty for a factor of 1, and for a model without steps.
    """
    factor, profile = STEP_FACTORS[quality], limits.profile
    if factor == 1 or "num_inference_steps" in profile.unused_fields:
        return {}
    most = limits.settings.max_num_inference_steps
    scheduler = values.get("scheduler", profile.defaults.scheduler)
    most = min(most, profile.most_steps.get(scheduler, most))
    steps = math.ceil(profile.defaults.num_inference_steps * factor)
    return {"num_inference_steps": min(steps, most)}
