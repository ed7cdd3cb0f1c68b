"""A v1 ``:predict`` body to requests, one for each picture, in the order of the answer."""

from __future__ import annotations

from collections import ChainMap
from typing import Any, NamedTuple

from predictor.errors import InvalidRequestError
from predictor.images import FORMATS
from predictor.protocol.accept import EVENT_STREAM, JSON, preferred
from predictor.protocol.body import Instance, InstancesBody, merged, names_as_written
from predictor.protocol.call import Call, Picture, ResponseForm
from predictor.protocol.json_body import check_shape, read_json
from predictor.requests import (
    CallLimits,
    InputImages,
    Limits,
    PictureSource,
    generation_requests,
)
from predictor.requests.fields import FIELDS
from predictor.requests.validation import given, validated

# A light body of this length is read within 10 ms.
_SMALL_BYTES = 16_384
# Far more than a request has; commas in prompts count too.
_LIGHT_VALUES = 1000
_IMAGE_FIELDS = {field.name for field in FIELDS if field.has_picture}


class ParsedBody(NamedTuple):
    """A body whose fields have valid names and types; its pictures are not decoded yet.

    ``instances`` holds the parameters of each instance, and ``written`` how the caller wrote their
    names. ``is_listed`` is True if the body itself has a list of instances. ``form`` is the
    response of a wire format other than ``:predict``.
    """

    instances: tuple[dict[str, Any], ...]
    written: tuple[dict[str, str], ...]
    is_listed: bool
    media_type: str | None
    form: ResponseForm | None = None

    @property
    def picture_count(self) -> int:
        """The number of pictures that the call makes."""
        return sum(values.get("num_images_per_prompt", 1) for values in self.instances)

    @property
    def has_images(self) -> bool:
        """Whether there are pictures to decode, which takes too long for the event loop."""
        return any(_IMAGE_FIELDS & values.keys() for values in self.instances)

    @property
    def timeout(self) -> float | None:
        """The shortest timeout of its instances, because the answer of a call is whole."""
        timeouts = [values["timeout"] for values in self.instances if "timeout" in values]
        return min(timeouts, default=None)


def parse(payload: object, accept: str | None, limits: CallLimits) -> ParsedBody:
    """Read a body, as bytes or as JSON that the server has already parsed.

    Raises:
        InvalidRequestError: names the field and the reason.
    """
    document = read_document(payload)
    media_type = _media_type(accept)
    is_listed = "instances" in document
    instances = (
        _instances(document, limits) if is_listed else (merged(validated(Instance, document)),)
    )
    written = _names_as_written(document)
    body = ParsedBody(instances, written, is_listed, media_type)
    try:
        limits.check_image_count(body.picture_count)
    except InvalidRequestError as error:
        raise error.with_spelling(dict(ChainMap(*written))) from None
    return body


def decode_call(body: ParsedBody, limits: Limits, images: PictureSource | None = None) -> Call:
    """Decode the pictures, unless ``images`` does, and set every parameter.

    Raises:
        InvalidRequestError: names the field and the reason.
    """
    accepted = FORMATS.get(body.media_type or "", "png")
    images = images or InputImages(limits.settings.max_image_pixels)
    as_events = body.media_type == EVENT_STREAM
    pictures: list[Picture] = []
    for index, values in enumerate(body.instances):
        output_format = values.get("output_format", accepted)
        try:
            requests = generation_requests(values, limits, images)
        except InvalidRequestError as error:
            refusal = error.with_spelling(body.written[index])
            raise refusal.within(f"instances[{index}]") if body.is_listed else refusal from None
        previews = values.get("previews", 0) if as_events else 0
        pictures += [Picture(request, output_format, previews) for request in requests]
    as_json = body.is_listed or as_events or body.media_type == JSON or len(pictures) > 1
    return Call(tuple(pictures), as_json, as_events, body.timeout, body.form)


def accepts_events(accept: str | None) -> bool:
    """Whether the response to a request with this ``Accept`` header is a stream of events."""
    return _media_type(accept) == EVENT_STREAM


def is_light(payload: bytes) -> bool:
    """Whether JSON has so few values that reading and checking it takes less than 10 ms."""
    return sum(map(payload.count, (b",", b"[", b"{"))) <= _LIGHT_VALUES


def read_document(payload: object) -> dict[str, Any]:
    """A body as a JSON object.

    Raises:
        InvalidRequestError: it is not one.
    """
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


def _media_type(accept: str | None) -> str | None:
    return preferred(accept, (JSON, EVENT_STREAM, *FORMATS))


def _instances(document: dict[str, Any], limits: CallLimits) -> tuple[dict[str, Any], ...]:
    if isinstance(listed := document["instances"], list):
        # Before they are validated: each has at least one picture.
        limits.check_image_count(len(listed))
    body = validated(InstancesBody, document)
    if not body.instances:
        raise InvalidRequestError("instances", "is empty")
    shared = given(body.parameters)
    return tuple(shared | merged(instance) for instance in body.instances)


def _names_as_written(document: dict[str, Any]) -> tuple[dict[str, str], ...]:
    """The spelling of the parameters of each instance; those of the instance itself come first."""
    shared = names_as_written(document)
    return tuple(shared | names_as_written(one) for one in document.get("instances", [document]))
