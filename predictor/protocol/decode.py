"""A ``:predict`` body to validated requests, one for each picture, in the order of the answer."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import orjson

from predictor.errors import InvalidRequestError
from predictor.images import FORMATS, OutputFormat
from predictor.limits import Limits
from predictor.protocol.accept import EVENT_STREAM, JSON, preferred
from predictor.protocol.fields import Instance, InstancesBody, validated
from predictor.protocol.input_image import InputImages, settle_size
from predictor.requests import DEFAULT_STRENGTH, Adapter, ControlNetInput, GenerationRequest, Task

# A drawn seed is short enough to be typed again.
_DRAWN_SEED_BITS = 32
_IMAGE_FIELDS = {"image", "mask_image", "controlnet"}


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


class Asked(NamedTuple):
    """A body whose fields have the right names and types; its pictures are not read yet.

    ``instances`` holds the parameters of each; ``is_listed`` where the body listed them itself.
    """

    instances: tuple[dict[str, Any], ...]
    is_listed: bool
    media_type: str | None

    @property
    def has_images(self) -> bool:
        """Whether there are pictures to decode, which takes longer than an event loop can wait."""
        return any(_IMAGE_FIELDS & values.keys() for values in self.instances)


def parse(payload: object, accept: str | None, limits: Limits) -> Asked:
    """Read a body, as bytes or as JSON that the server has parsed already.

    Raises:
        InvalidRequestError: names the field and the reason.
    """
    document = _document(payload)
    media_type = preferred(accept, (JSON, EVENT_STREAM, *FORMATS))
    is_listed = "instances" in document
    instances = _instances(document) if is_listed else (validated(Instance, document).merged(),)
    limits.check_image_count(sum(_image_count(values) for values in instances))
    return Asked(instances, is_listed, media_type)


def settle(asked: Asked, limits: Limits) -> Call:
    """Decode the pictures and settle every parameter.

    Raises:
        InvalidRequestError: names the field and the reason.
    """
    accepted = FORMATS.get(asked.media_type or "", "png")
    images = InputImages(limits.settings.max_image_pixels)
    pictures: list[Picture] = []
    for index, values in enumerate(asked.instances):
        try:
            pictures += _pictures(values, accepted, limits, images)
        except InvalidRequestError as error:
            raise error.within(f"instances[{index}]") if asked.is_listed else error from None
    as_events = asked.media_type == EVENT_STREAM
    as_json = asked.is_listed or as_events or asked.media_type == JSON or len(pictures) > 1
    return Call(tuple(pictures), as_json, as_events)


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


def _instances(document: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    body = validated(InstancesBody, document)
    if not body.instances:
        raise InvalidRequestError("instances", "is empty")
    shared = body.parameters.given()
    return tuple(shared | instance.merged() for instance in body.instances)


def _image_count(values: dict[str, Any]) -> int:
    count: int = values.get("num_images_per_prompt", 1)
    if count < 1:
        raise InvalidRequestError("num_images_per_prompt", f"{count} is not at least 1")
    return count


def _pictures(
    values: dict[str, Any], accepted: OutputFormat, limits: Limits, images: InputImages
) -> tuple[Picture, ...]:
    """One request per picture: the first with the seed, the others with the numbers after it."""
    limits.check_used(values)
    settled: dict[str, Any] = {"negative_prompt": "", "output_format": accepted}
    settled |= asdict(limits.profile.defaults) | values
    if limits.profile.has_refiner and "mask_image" in values:
        # No refiner goes on with inpainting: the base goes all the way.
        settled["denoising_end"] = values.get("denoising_end", 1.0)
    count = settled.pop("num_images_per_prompt", 1)
    output_format = settled.pop("output_format")
    first = settled.pop("seed", None)
    if first is None:
        first = secrets.randbits(_DRAWN_SEED_BITS)
    if "image" in values:
        settled |= settle_size(images.size("image", values["image"]), values, limits)
        task: Task = "inpainting" if "mask_image" in values else "image-to-image"
        settled.setdefault("strength", DEFAULT_STRENGTH[task])
    limits.check_size(settled["width"], settled["height"])
    settled |= _typed(settled, images)
    requests = [GenerationRequest(seed=first + index, **settled) for index in range(count)]
    for request in requests:
        limits.check(request)
    return tuple(Picture(_in_order(request), output_format) for request in requests)


def _in_order(request: GenerationRequest) -> GenerationRequest:
    """The same one: the order of adapters means nothing, and must not keep requests apart."""
    by_name = sorted(request.adapters, key=lambda adapter: adapter.name)
    return replace(request, adapters=tuple(by_name))


def _typed(settled: dict[str, Any], images: InputImages) -> dict[str, Any]:
    """The fields that are more than numbers and text, as a request has them."""
    size = (settled["width"], settled["height"])
    typed: dict[str, Any] = {}
    if "image" in settled:
        typed["image"] = images.picture("image", settled["image"], size)
    if "mask_image" in settled:
        typed["mask_image"] = images.mask("mask_image", settled["mask_image"], size)
    if "adapters" in settled:
        typed["adapters"] = tuple(Adapter(**one) for one in settled["adapters"])
    if "controlnet" in settled:
        given = settled["controlnet"]
        image = images.picture("controlnet.image", given["image"], size)
        typed["controlnet"] = ControlNetInput(**given | {"image": image})
    return typed
