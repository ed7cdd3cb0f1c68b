"""OpenAI's Images API: generations and edits."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic.json_schema import models_json_schema

from predictor.errors import InvalidRequestError
from predictor.protocol import Call, decode_call
from predictor.protocol.accept import EVENT_STREAM, JSON
from predictor.protocol.body import EXAMPLE_IMAGE, EXAMPLE_PROMPT
from predictor.protocol.decode import ParsedBody
from predictor.protocol.json_body import check_shape, read_json
from predictor.requests import CallLimits, InputImage, InputImages, Limits, PictureSource
from predictor.wire_formats.form_fields import multipart_fields, nested, typed
from predictor.wire_formats.openai_fields import IS_TEXT, ImageFields, read_fields, steps_of_quality
from predictor.wire_formats.openai_responses import IMAGES, ImagesForm, Operation
from predictor.wire_formats.wire_format import Answer, BodySchema, Message, WireFormat

# KServe serves OpenAI's API under the first prefix.
_PREFIXES = ("/openai/v1", "/v1")
# Also that of ``controlnet``, which is nested.
_FILES = {"image", "mask"}
_MULTIPART = "multipart/form-data"


class _Images(WireFormat):
    """What both operations share."""

    operation: ClassVar[Operation]

    def answers(self) -> tuple[Answer, ...]:
        """One object, or events."""
        content = {JSON: IMAGES, EVENT_STREAM: {"type": "string"}}
        return (Answer("The pictures; with `stream`, an event for each.", content),)

    def parse(self, document: Any, message: Message, limits: CallLimits) -> ParsedBody:
        """See ``WireFormat.parse``."""
        # A reader process sends JSON.
        fields = read_json(document) if isinstance(document, bytes) else document
        values, written, options = read_fields(fields)
        form = ImagesForm(self.operation, options)
        media_type = EVENT_STREAM if options.is_stream else JSON
        if values.get("num_images_per_prompt", 1) > 1:
            # OpenAI's event does not say which picture it previews.
            values.pop("previews", None)
        body = ParsedBody((values,), (written,), False, media_type, form)
        try:
            limits.check_image_count(body.picture_count)
        except InvalidRequestError as error:
            raise error.with_spelling(written) from None
        return body

    def decode(self, body: ParsedBody, limits: Limits, images: PictureSource | None = None) -> Call:
        """See ``WireFormat.decode``; ``quality`` is a factor on the model's number of steps."""
        assert isinstance(body.form, ImagesForm)
        (values,) = body.instances
        values = steps_of_quality(body.form.options.quality, values, limits) | values
        return decode_call(body._replace(instances=(values,)), limits, images)


class ImageGenerations(_Images):
    """``images/generations``: text to image, or another task with the fields of the table."""

    name = "openai generations"
    summary = "Make pictures from a prompt, over OpenAI's Images API"
    paths = tuple(f"{prefix}/images/generations" for prefix in _PREFIXES)
    operation = "image_generation"

    def document(self, content: Any, headers: Mapping[str, str]) -> dict[str, Any]:
        """The body as a JSON object; the content type is ignored."""
        document = read_json(content)
        if not isinstance(document, dict):
            raise InvalidRequestError("", "the body must be a JSON object")
        return document

    def body_schema(self, definitions_at: str) -> BodySchema:
        """The fields of a request."""
        return _schema(JSON, definitions_at)

    def examples(self) -> dict[str, dict[str, Any]]:
        """With and without a stream."""
        request = {"prompt": EXAMPLE_PROMPT, "seed": 7, "output_format": "webp"}
        return {"a picture": request, "a stream": request | {"stream": True}}


class ImageEdits(_Images):
    """``images/edits``: image to image, or inpainting with a mask."""

    name = "openai edits"
    summary = "Change a picture, over OpenAI's Images API"
    description = "Pictures are files, or base64 in text fields. Numbers are text, objects JSON."
    paths = tuple(f"{prefix}/images/edits" for prefix in _PREFIXES)
    operation = "image_edit"

    def document(self, content: Any, headers: Mapping[str, str]) -> dict[str, Any]:
        """The form as a JSON object."""
        document = nested(multipart_fields(content, headers.get("content-type", "")))
        if "mask_image" in document:
            raise InvalidRequestError("mask_image", "send `mask`, whose transparent area is edited")
        if "image" not in document:
            raise InvalidRequestError("image", "is missing")
        document["image"] = _only(document["image"])
        texts = {name: _as_text(name, value) for name, value in document.items()}
        if "mask" in texts:
            texts["mask_image"] = texts.pop("mask")
        fields = typed(texts, IS_TEXT)
        check_shape(fields)
        return fields

    def parse(self, document: Any, message: Message, limits: CallLimits) -> ParsedBody:
        """See ``WireFormat.parse``."""
        body = super().parse(document, message, limits)
        (written,) = body.written
        return body._replace(written=(written | {"mask_image": "mask"},))

    def decode(self, body: ParsedBody, limits: Limits, images: PictureSource | None = None) -> Call:
        """See ``WireFormat.decode``."""
        images = images or InputImages(limits.settings.max_image_pixels)
        return super().decode(body, limits, TransparentMask(images))

    def body_schema(self, definitions_at: str) -> BodySchema:
        """The fields of a request; files in place of base64."""
        found = _schema(_MULTIPART, definitions_at)
        file = {"type": "string", "format": "binary"}
        form = found.definitions["ImageFields"]
        properties = {n: p for n, p in form["properties"].items() if n != "mask_image"}
        properties |= {"image": file, "mask": file}
        schema = form | {"properties": properties, "required": ["prompt", "image"]}
        return found._replace(schema=schema)

    def examples(self) -> dict[str, dict[str, Any]]:
        """An edit of a grey square."""
        return {"a picture": {"prompt": EXAMPLE_PROMPT, "image": EXAMPLE_IMAGE, "strength": 0.9}}


class TransparentMask:
    """A ``PictureSource`` whose masks mark the area to repaint by transparency."""

    def __init__(self, images: PictureSource) -> None:
        self._images = images

    def size(self, field: str, text: str) -> tuple[int, int]:
        """See ``InputImages.size``."""
        return self._images.size(field, text)

    def picture(self, field: str, text: str, size: tuple[int, int]) -> InputImage:
        """See ``InputImages.picture``."""
        return self._images.picture(field, text, size)

    def mask(self, field: str, text: str, size: tuple[int, int]) -> InputImage:
        """See ``InputImages.transparency``."""
        return self._images.transparency(field, text, size)

    def transparency(self, field: str, text: str, size: tuple[int, int]) -> InputImage:
        """See ``InputImages.transparency``."""
        return self._images.transparency(field, text, size)


def _only(value: Any) -> Any:
    """The picture of ``image`` or ``image[]``."""
    if not isinstance(value, list):
        return value
    if len(value) != 1:
        raise InvalidRequestError("image", f"{len(value)} pictures; the server edits one")
    return value[0]


def _as_text(name: str, value: Any) -> Any:
    """A value of a form with the files of pictures as base64.

    Raises:
        InvalidRequestError: another field is a file.
    """
    if isinstance(value, dict):
        return {key: _as_text(key, one) for key, one in value.items()}
    if isinstance(value, list):
        return [_as_text(f"{name}[]", one) for one in value]
    if not isinstance(value, bytes):
        return value
    if name not in _FILES:
        raise InvalidRequestError(name, "must not be a file")
    return base64.b64encode(value).decode()


def _schema(media_type: str, definitions_at: str) -> BodySchema:
    schemas, definitions = models_json_schema(
        [(ImageFields, "validation")], ref_template=definitions_at + "{model}"
    )
    return BodySchema(media_type, schemas[ImageFields, "validation"], definitions["$defs"])
