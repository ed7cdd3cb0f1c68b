"""One operation of a protocol, between HTTP and ``GenerationRequest``s."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from predictor.protocol import Call, decode_call, is_light
from predictor.protocol.accept import JSON
from predictor.protocol.decode import ParsedBody
from predictor.protocol.encode import RESPONSE_HEADERS
from predictor.requests import CallLimits, Limits, PictureSource

# A light body of this length is read within 10 ms.
_SMALL_BYTES = 16_384
# The headers that say how to read a body.
_CONTENT_HEADERS = ("content-type", "inference-header-content-length")


class BodySchema(NamedTuple):
    """The body in the OpenAPI document: its media type, its JSON schema, and the definitions.

    The schema of a GET request is that of an object with the fields of its query.
    """

    media_type: str
    schema: dict[str, Any]
    definitions: dict[str, Any]


class Answer(NamedTuple):
    """A successful response in the OpenAPI document.

    ``content`` maps media types to JSON schemas. ``headers`` are those of pictures, and any further
    names that ``edge/openapi_parts.py`` describes.
    """

    description: str
    content: Mapping[str, dict[str, Any]]
    headers: tuple[str, ...] = RESPONSE_HEADERS
    status: int = 200


class WireFormat(ABC):
    """One operation: where it is served, how its body is read, and what the response looks like.

    ``name`` identifies it between processes. ``paths`` are templates of FastAPI; one without
    ``{model_name}`` has the name in the field ``model``.
    """

    name: ClassVar[str]
    method: ClassVar[str] = "POST"
    paths: ClassVar[tuple[str, ...]] = ()
    # For the OpenAPI document: one line, details, and request headers with what they do.
    summary: ClassVar[str] = "Make pictures"
    description: ClassVar[str] = ""
    request_headers: ClassVar[Mapping[str, str]] = {}
    # Statuses of errors that no other call has.
    error_statuses: ClassVar[tuple[int, ...]] = ()

    @abstractmethod
    def document(self, content: Any, headers: Mapping[str, str]) -> dict[str, Any]:
        """The body, or the query of a GET request, as a JSON object with pictures as base64.

        It runs in a reader process if the body is large.

        Raises:
            InvalidRequestError: the body has another form.
        """

    @abstractmethod
    def parse(self, document: Any, message: Message, limits: CallLimits) -> ParsedBody:
        """Check names and types of the fields, which also happens before the model is loaded.

        Raises:
            InvalidRequestError: names the field and the reason.
        """

    def decode(self, body: ParsedBody, limits: Limits, images: PictureSource | None = None) -> Call:
        """Decode the pictures, unless ``images`` does, and set every parameter.

        Raises:
            InvalidRequestError: names the field and the reason.
        """
        return decode_call(body, limits, images)

    def body_schema(self, definitions_at: str) -> BodySchema | None:
        """For the OpenAPI document, without bounds; None to describe nothing."""
        return None

    def answers(self) -> tuple[Answer, ...]:
        """For the OpenAPI document: the responses that are not errors."""
        return (Answer("The pictures.", {JSON: {"type": "object"}}),)

    def examples(self) -> dict[str, dict[str, Any]]:
        """For the OpenAPI document: bodies, or fields of the query, by a title; any model serves.

        A test sends each of them.
        """
        return {}


@dataclass(frozen=True)
class Message:
    """One HTTP request as a wire format reads it.

    ``content`` is the body, or the query of a GET request; JSON values if KServe has parsed it.
    ``arrived`` is when all of it had arrived, on the event loop's clock; 0 if that is not known.
    """

    wire_format: WireFormat
    content: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    is_head: bool = False
    arrived: float = 0.0

    @property
    def content_headers(self) -> dict[str, str]:
        """The headers that ``WireFormat.document`` reads."""
        return {name: self.headers[name] for name in _CONTENT_HEADERS if name in self.headers}

    @property
    def accept(self) -> str | None:
        """The ``Accept`` header."""
        return self.headers.get("accept")

    @property
    def is_small(self) -> bool:
        """Whether it is read so quickly that the event loop can wait."""
        content = self.content
        return not isinstance(content, bytes) or (
            len(content) <= _SMALL_BYTES and is_light(content)
        )

    def document(self) -> dict[str, Any]:
        """See ``WireFormat.document``."""
        return self.wire_format.document(self.content, self.content_headers)

    def parse(self, document: Any, limits: CallLimits) -> ParsedBody:
        """See ``WireFormat.parse``."""
        return self.wire_format.parse(document, self, limits)
