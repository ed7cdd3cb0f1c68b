"""A ``:predict`` body to validated requests, one for each picture, in the order of the answer."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import orjson

from predictor.errors import InvalidRequestError
from predictor.images import FORMATS, OutputFormat
from predictor.limits import Limits
from predictor.protocol.accept import JSON, preferred
from predictor.protocol.events import EVENT_STREAM
from predictor.protocol.fields import Instance, InstancesBody, validated
from predictor.protocol.input_image import read_image
from predictor.types import Adapter, ControlNetInput, GenerationRequest

# A drawn seed is short enough to be typed again.
_DRAWN_SEED_BITS = 32


class Picture(NamedTuple):
    """One picture of a call and the file format to answer it in."""

    request: GenerationRequest
    output_format: OutputFormat


@dataclass(frozen=True)
class Call:
    """One HTTP call: the pictures it asks for, and how it is answered.

    ``as_json``: predictions rather than the bare file; ``as_events``: these at the end of a stream
    that tells the steps.
    """

    pictures: tuple[Picture, ...]
    as_json: bool
    as_events: bool = False


def decode(payload: object, accept: str | None, limits: Limits) -> Call:
    """Read a body, as bytes or as JSON that the server has parsed already.

    Raises:
        InvalidRequestError: names the field and the reason.
    """
    document = _document(payload)
    media_type = preferred(accept, (JSON, EVENT_STREAM, *FORMATS))
    accepted = FORMATS.get(media_type or "", "png")
    as_events = media_type == EVENT_STREAM
    if "instances" in document:
        return Call(_from_instances(document, accepted, limits), as_json=True, as_events=as_events)
    pictures = _from_prompt(document, accepted, limits)
    as_json = as_events or media_type == JSON or len(pictures) > 1
    return Call(pictures, as_json, as_events)


def _document(payload: object) -> dict[str, Any]:
    if isinstance(payload, bytes):
        try:
            payload = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            raise InvalidRequestError("", f"the body is no JSON: {error}") from None
    if not isinstance(payload, dict):
        raise InvalidRequestError(
            "",
            'the body must be a JSON object with "prompt" or "instances" (KServe\'s v1 protocol)',
        )
    return payload


def _from_prompt(
    document: dict[str, Any], accepted: OutputFormat, limits: Limits
) -> tuple[Picture, ...]:
    values = validated(Instance, document).merged()
    limits.check_image_count(_image_count(values))
    return _pictures(values, accepted, limits)


def _from_instances(
    document: dict[str, Any], accepted: OutputFormat, limits: Limits
) -> tuple[Picture, ...]:
    body = validated(InstancesBody, document)
    if not body.instances:
        raise InvalidRequestError("instances", "is empty")
    shared = body.parameters.given()
    merged = [shared | instance.merged() for instance in body.instances]
    limits.check_image_count(sum(_image_count(values) for values in merged))
    pictures: list[Picture] = []
    for index, values in enumerate(merged):
        try:
            pictures += _pictures(values, accepted, limits)
        except InvalidRequestError as error:
            raise error.within(f"instances[{index}]") from None
    return tuple(pictures)


def _image_count(values: dict[str, Any]) -> int:
    count: int = values.get("num_images_per_prompt", 1)
    if count < 1:
        raise InvalidRequestError("num_images_per_prompt", f"{count} is not at least 1")
    return count


def _pictures(
    values: dict[str, Any], accepted: OutputFormat, limits: Limits
) -> tuple[Picture, ...]:
    """One request per picture: the first with the seed, the others with the numbers after it."""
    limits.check_used(values)
    settled: dict[str, Any] = {"negative_prompt": "", "output_format": accepted}
    settled |= asdict(limits.profile.defaults) | values
    count = settled.pop("num_images_per_prompt", 1)
    output_format = settled.pop("output_format")
    first = settled.pop("seed", None)
    if first is None:
        first = secrets.randbits(_DRAWN_SEED_BITS)
    settled |= _typed(settled)
    requests = [GenerationRequest(seed=first + index, **settled) for index in range(count)]
    for request in requests:
        limits.check(request)
    return tuple(Picture(request, output_format) for request in requests)


def _typed(settled: dict[str, Any]) -> dict[str, Any]:
    """The fields that are more than numbers and text, as a request has them."""
    typed: dict[str, Any] = {
        field: read_image(field, settled[field])
        for field in ("image", "mask_image")
        if field in settled
    }
    if "adapters" in settled:
        typed["adapters"] = tuple(Adapter(**one) for one in settled["adapters"])
    if "controlnet" in settled:
        given = settled["controlnet"]
        image = read_image("controlnet.image", given["image"])
        typed["controlnet"] = ControlNetInput(**given | {"image": image})
    return typed
