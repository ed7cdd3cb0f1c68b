"""A v1 ``:predict`` body to requests, one for each picture, in the order of the answer."""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass
from typing import Any, NamedTuple

from predictor.errors import InvalidRequestError
from predictor.images import FORMATS, OutputFormat
from predictor.protocol.accept import EVENT_STREAM, JSON, preferred
from predictor.protocol.body import Instance, InstancesBody, merged, names_as_written
from predictor.protocol.json_body import check_shape, read_json
from predictor.requests import GenerationRequest, InputImages, Limits, generation_requests
from predictor.requests.fields import FIELDS
from predictor.requests.validation import given, validated

_IMAGE_FIELDS = {field.name for field in FIELDS if field.has_picture}


class Picture(NamedTuple):
    """One picture of a call and the file format of the answer."""

    request: GenerationRequest
    output_format: OutputFormat


@dataclass(frozen=True)
class Call:
    """One HTTP call: its pictures, and the form of the answer.

    ``as_json``: predictions instead of the bare file. ``as_events``: a stream of progress events
    that ends with the predictions.
    """

    pictures: tuple[Picture, ...]
    as_json: bool
    as_events: bool = False


class ParsedBody(NamedTuple):
    """A body whose fields have valid names and types; its pictures are not decoded yet.

    ``instances`` holds the parameters of each instance, and ``written`` how the caller wrote their
    names. ``is_listed`` is True if the body itself has a list of instances.
    """

    instances: tuple[dict[str, Any], ...]
    written: tuple[dict[str, str], ...]
    is_listed: bool
    media_type: str | None

    @property
    def has_images(self) -> bool:
        """Whether there are pictures to decode, which takes too long for the event loop."""
        return any(_IMAGE_FIELDS & values.keys() for values in self.instances)


def parse(payload: object, accept: str | None, limits: Limits) -> ParsedBody:
    """Read a body, as bytes or as JSON that the server has already parsed.

    Raises:
        InvalidRequestError: names the field and the reason.
    """
    document = _document(payload)
    media_type = preferred(accept, (JSON, EVENT_STREAM, *FORMATS))
    is_listed = "instances" in document
    instances = _instances(document) if is_listed else (merged(validated(Instance, document)),)
    written = _names_as_written(document)
    try:
        count = sum(values.get("num_images_per_prompt", 1) for values in instances)
        limits.check_image_count(count)
    except InvalidRequestError as error:
        raise error.with_spelling(dict(ChainMap(*written))) from None
    return ParsedBody(instances, written, is_listed, media_type)


def decode_call(body: ParsedBody, limits: Limits) -> Call:
    """Decode the pictures and set every parameter.

    Raises:
        InvalidRequestError: names the field and the reason.
    """
    accepted = FORMATS.get(body.media_type or "", "png")
    images = InputImages(limits.settings.max_image_pixels)
    pictures: list[Picture] = []
    for index, values in enumerate(body.instances):
        output_format = values.get("output_format", accepted)
        try:
            requests = generation_requests(values, limits, images)
        except InvalidRequestError as error:
            refusal = error.with_spelling(body.written[index])
            raise refusal.within(f"instances[{index}]") if body.is_listed else refusal from None
        pictures += [Picture(request, output_format) for request in requests]
    as_events = body.media_type == EVENT_STREAM
    as_json = body.is_listed or as_events or body.media_type == JSON or len(pictures) > 1
    return Call(tuple(pictures), as_json, as_events)


def _document(payload: object) -> dict[str, Any]:
    if isinstance(payload, bytes):
        payload = read_json(payload)
    else:
        # KServe itself parses some CloudEvents.
        check_shape(payload)
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
    shared = given(body.parameters)
    return tuple(shared | merged(instance) for instance in body.instances)


def _names_as_written(document: dict[str, Any]) -> tuple[dict[str, str], ...]:
    """The spelling of the parameters of each instance; those of the instance itself come first."""
    shared = names_as_written(document)
    return tuple(shared | names_as_written(one) for one in document.get("instances", [document]))
