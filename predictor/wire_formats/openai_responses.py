"""Responses of OpenAI's Images API: one JSON object, or an event for each picture."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any, Literal

import orjson

from predictor.errors import RefusedBySafetyError
from predictor.images import encode_image
from predictor.protocol import Call, EncodedResponse
from predictor.protocol.accept import JSON
from predictor.protocol.encode import ResultEncoder, refusal_of, write_base64
from predictor.protocol.json_schema import object_schema, properties_of
from predictor.requests import GenerationRequest, GenerationResult, Preview
from predictor.wire_formats.openai_fields import ImageOptions

Operation = Literal["image_generation", "image_edit"]

IMAGES = object_schema(
    {
        "created": {"type": "integer"},
        "data": {
            "type": "array",
            "items": object_schema(
                {"b64_json": {"type": "string"}, "seed": {"type": "integer"}, "revised_prompt": {}},
                ["b64_json", "seed"],
            ),
        },
        **properties_of("string", "background", "output_format", "quality", "size"),
        "usage": object_schema(
            properties_of("integer", "input_tokens", "output_tokens", "total_tokens")
        ),
    },
    ["created", "data", "usage"],
)
"""The schema of a response without a stream."""

# A token of a text is about this many bytes of English.
_BYTES_PER_TOKEN = 4
# A token of a picture is a square with this side, in pixels.
_TOKEN_SIDE = 16


@dataclass(frozen=True)
class ImagesForm:
    """The response to one operation."""

    operation: Operation
    options: ImageOptions

    def encoder(
        self, call: Call, results: Sequence[GenerationResult], **origin: Any
    ) -> ImagesEncoder:
        """See ``ResponseForm``."""
        return ImagesEncoder(self, call, results, **origin)

    def progress_event(self, step: int, steps: int) -> bytes:
        """A comment, which clients skip: OpenAI's streams have no event for a step."""
        return b": step %d of %d\n\n" % (step, steps)

    def preview_event(self, call: Call, index: int, preview: Preview) -> bytes:
        """A preview in the format of the finished picture."""
        output_format = call.pictures[index].output_format
        file = encode_image(preview.image, output_format, None, self.options.compression)
        details = self.description(call) | {
            "type": f"{self.operation}.partial_image",
            "partial_image_index": preview.index,
            "created_at": int(time.time()),
        }
        body = io.BytesIO()
        write_event(body, file, details)
        return body.getvalue()

    def description(self, call: Call) -> dict[str, Any]:
        """The fields that describe each picture of the call."""
        first = call.pictures[0]
        return {
            "background": "opaque",
            "output_format": first.output_format,
            "quality": self.options.quality,
            "size": f"{first.request.width}x{first.request.height}",
        }


class ImagesEncoder(ResultEncoder):
    """Encodes the pictures that no safety layer blocks."""

    def __init__(
        self, form: ImagesForm, call: Call, results: Sequence[GenerationResult], **origin: Any
    ) -> None:
        super().__init__(call, results, **origin)
        self._form = form
        self._made: list[GenerationRequest] = []
        self._description = form.description(call)
        self._created = int(time.time())

    def add(self, index: int) -> None:
        """Encode the next picture; leave it out if it is blocked."""
        result = self.results[index]
        file = self.file(index, self._form.options.compression)
        if file is None:
            return
        is_first = not self._made
        self._made.append(result.request)
        if self._form.options.is_stream:
            self._write_event(result, file, is_first=is_first)
            return
        start = b'{"created":%d,"data":[' % self._created
        self.body.write(start if is_first else b",")
        write_picture(self.body, file, _details(result))

    def response(self) -> EncodedResponse:
        """The response, once all pictures are added.

        Raises:
            RefusedBySafetyError: all pictures are blocked.
        """
        if not self._made:
            raise RefusedBySafetyError(refusal_of(self.results[0]))
        if not self._form.options.is_stream:
            rest = self._description | {"usage": usage(self._made, self._made[0])}
            self.body.write(b"]," + orjson.dumps(rest)[1:])
        return EncodedResponse(self.body.getvalue(), self.headers | {"content-type": JSON})

    def _write_event(self, result: GenerationResult, file: bytes, *, is_first: bool) -> None:
        prompt = result.request if is_first else None
        details = _details(result) | self._description
        details |= {"type": f"{self._form.operation}.completed", "created_at": self._created}
        details["usage"] = usage([result.request], prompt)
        write_event(self.body, file, details)


def write_event(body: IO[bytes], file: bytes, details: dict[str, Any]) -> None:
    """Write the event of a picture; ``details`` has its type."""
    body.write(b"event: %s\ndata: " % details["type"].encode())
    write_picture(body, file, details)
    body.write(b"\n\n")


def write_picture(body: IO[bytes], file: bytes, details: dict[str, Any]) -> None:
    """Write a picture and its details, of which there is at least one, as JSON."""
    body.write(b'{"b64_json":"')
    write_base64(body, file)
    body.write(b'",' + orjson.dumps(details)[1:])


def _details(result: GenerationResult) -> dict[str, Any]:
    details: dict[str, Any] = {"seed": result.request.seed, "revised_prompt": None}
    if result.warnings:
        details["warnings"] = list(result.warnings)
    if result.safety:
        details["safety"] = [asdict(verdict) for verdict in result.safety]
    return details


def usage(made: Sequence[GenerationRequest], prompt: GenerationRequest | None) -> dict[str, Any]:
    """The tokens of the pictures and of the input in ``prompt``, which counts once for a call.

    The server does not know the tokens of OpenAI's models. Four bytes of text are a token, and so
    are 16x16 pixels.
    """
    texts = len((prompt.prompt + prompt.negative_prompt).encode()) if prompt else 0
    inputs = (prompt.image, prompt.mask_image) if prompt else ()
    controlled = prompt.controlnet.image if prompt and prompt.controlnet else None
    sizes = [one.image.size for one in (*inputs, controlled) if one is not None]
    text_tokens = -(-texts // _BYTES_PER_TOKEN)
    image_tokens = sum(_image_tokens(*size) for size in sizes)
    output_tokens = sum(_image_tokens(one.width, one.height) for one in made)
    return {
        "input_tokens": text_tokens + image_tokens,
        "input_tokens_details": {"text_tokens": text_tokens, "image_tokens": image_tokens},
        "output_tokens": output_tokens,
        "total_tokens": text_tokens + image_tokens + output_tokens,
    }


def _image_tokens(width: int, height: int) -> int:
    return -(-width // _TOKEN_SIDE) * -(-height // _TOKEN_SIDE)
