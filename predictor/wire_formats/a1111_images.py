"""A1111's ``txt2img`` and ``img2img``.

https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/API
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from PIL import ImageFilter, ImageOps
from pydantic import BaseModel

from predictor.errors import InvalidRequestError
from predictor.protocol import Call, decode_call
from predictor.protocol.accept import JSON
from predictor.protocol.body import EXAMPLE_IMAGE, EXAMPLE_PROMPT
from predictor.protocol.decode import ParsedBody
from predictor.protocol.json_body import read_json
from predictor.requests import CallLimits, InputImage, InputImages, Limits, PictureSource
from predictor.wire_formats.a1111_fields import (
    Img2ImgFields,
    MaskOptions,
    Txt2ImgFields,
    checkpoint_of,
    read_fields,
)
from predictor.wire_formats.a1111_responses import RESPONSE, A1111Form
from predictor.wire_formats.wire_format import Answer, BodySchema, Message, WireFormat


class TextToImage(WireFormat):
    """``txt2img``."""

    name = "a1111 txt2img"
    summary = "Make pictures from a prompt, over A1111's API"
    paths = ("/sdapi/v1/txt2img",)
    error_statuses = (409,)
    fields: ClassVar[type[BaseModel]] = Txt2ImgFields
    has_image: ClassVar[bool] = False

    def document(self, content: Any, headers: Mapping[str, str]) -> dict[str, Any]:
        """The body as a JSON object with the model that it names as ``model``."""
        document = read_json(content)
        if not isinstance(document, dict):
            raise InvalidRequestError("", "the body must be a JSON object")
        return document | {"model": checkpoint_of(document)}

    def parse(self, document: Any, message: Message, limits: CallLimits) -> ParsedBody:
        """See ``WireFormat.parse``."""
        # A reader process sends JSON.
        fields = read_json(document) if isinstance(document, bytes) else document
        request = read_fields(self._as_sent(fields), has_image=self.has_image)
        body = ParsedBody((request.values,), (request.written,), False, JSON, A1111Form(request))
        try:
            limits.check_image_count(body.picture_count)
        except InvalidRequestError as error:
            raise error.with_spelling(request.written) from None
        return body

    def decode(self, body: ParsedBody, limits: Limits, images: PictureSource | None = None) -> Call:
        """See ``WireFormat.decode``; like A1111, it reads weights wherever the model can."""
        if limits.profile.reads_weighted_prompts:
            (values,) = body.instances
            body = body._replace(instances=(values | {"prompt_syntax": "weighted"},))
        return decode_call(body, limits, images)

    def body_schema(self, definitions_at: str) -> BodySchema:
        """The fields of a request."""
        schema = self.fields.model_json_schema(ref_template=definitions_at + "{model}")
        return BodySchema(JSON, schema, schema.pop("$defs", {}))

    def answers(self) -> tuple[Answer, ...]:
        """One object."""
        return (Answer("The pictures, and their parameters as JSON text.", {JSON: RESPONSE}),)

    def examples(self) -> dict[str, dict[str, Any]]:
        """One picture."""
        return {"a picture": {"prompt": EXAMPLE_PROMPT, "seed": 7, "sampler_name": "Euler a"}}

    def _as_sent(self, document: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in document.items() if name != "model"}


class ImageToImage(TextToImage):
    """``img2img``, or inpainting with ``mask``."""

    name = "a1111 img2img"
    summary = "Change a picture, over A1111's API"
    paths = ("/sdapi/v1/img2img",)
    fields = Img2ImgFields
    has_image = True

    def document(self, content: Any, headers: Mapping[str, str]) -> dict[str, Any]:
        """The body with its pictures where a reader process expects them."""
        document = super().document(content, headers)
        pictures = {
            "image": _only(document.pop("init_images", None)),
            "mask_image": document.pop("mask", None),
        }
        return document | pictures

    def examples(self) -> dict[str, dict[str, Any]]:
        """A change of a grey square."""
        (example,) = super().examples().values()
        return {"a picture": example | {"init_images": [EXAMPLE_IMAGE], "denoising_strength": 0.9}}

    def decode(self, body: ParsedBody, limits: Limits, images: PictureSource | None = None) -> Call:
        """See ``WireFormat.decode``."""
        assert isinstance(body.form, A1111Form)
        images = images or InputImages(limits.settings.max_image_pixels)
        return super().decode(body, limits, ChangedMask(images, body.form.request.mask))

    def _as_sent(self, document: dict[str, Any]) -> dict[str, Any]:
        sent = super()._as_sent(document)
        return sent | {"init_images": [sent.pop("image")], "mask": sent.pop("mask_image")}


class ChangedMask:
    """A ``PictureSource`` whose masks are inverted and blurred as requested."""

    def __init__(self, images: PictureSource, options: MaskOptions) -> None:
        self._images = images
        self._options = options

    def size(self, field: str, text: str) -> tuple[int, int]:
        """See ``InputImages.size``."""
        return self._images.size(field, text)

    def picture(self, field: str, text: str, size: tuple[int, int]) -> InputImage:
        """See ``InputImages.picture``."""
        return self._images.picture(field, text, size)

    def mask(self, field: str, text: str, size: tuple[int, int]) -> InputImage:
        """See ``InputImages.mask``.

        Raises:
            InvalidRequestError: nothing is left to repaint.
        """
        mask = self._images.mask(field, text, size)
        image = ImageOps.invert(mask.image) if self._options.is_inverted else mask.image
        if image.getextrema() == (0, 0):
            raise InvalidRequestError(
                field, "is entirely white; with `inpainting_mask_invert` black marks the area"
            )
        if any(self._options.blur):
            image = image.filter(ImageFilter.GaussianBlur(self._options.blur))
        return mask if image is mask.image else InputImage.of(image)

    def transparency(self, field: str, text: str, size: tuple[int, int]) -> InputImage:
        """See ``InputImages.transparency``."""
        return self._images.transparency(field, text, size)


def _only(pictures: Any) -> Any:
    """The picture of ``init_images``."""
    if not pictures:
        raise InvalidRequestError("init_images", "is missing")
    if not isinstance(pictures, list):
        raise InvalidRequestError("init_images", "must be a list with one picture")
    if len(pictures) != 1:
        raise InvalidRequestError("init_images", f"{len(pictures)} pictures; the server takes one")
    return pictures[0]
