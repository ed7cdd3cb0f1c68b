"""A picture as a link: ``GET`` with the fields in the query, for ``<img src>``.

With a seed, the picture follows from the address and the revision, so clients can cache it (RFC
9110, section 8.8.3; RFC 9111).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import orjson
from pydantic import Field, create_model

from predictor.errors import InvalidRequestError
from predictor.images import FORMATS
from predictor.protocol import Call, EncodedResponse, ResponseEncoder, decode_call
from predictor.protocol.body import EXAMPLE_PROMPT
from predictor.protocol.decode import ParsedBody
from predictor.protocol.encode import RESPONSE_HEADERS, PredictEvents
from predictor.protocol.json_body import check_shape, read_json
from predictor.protocol.json_schema import BINARY
from predictor.requests import CallLimits, GenerationResult, Limits, PictureSource
from predictor.requests.field_types import WholeNumber
from predictor.requests.validation import Document, Parameters, given, spellings, validated
from predictor.wire_formats.form_fields import nested, query_fields, typed
from predictor.wire_formats.wire_format import Answer, BodySchema, Message, WireFormat

# A new revision at the same address is seen after this time; asking for it costs no picture.
_MAX_AGE_SECONDS = 3600
_NOT_MODIFIED = 304
_ANY_SEED = -1

LinkFields: type[Document] = create_model(
    "LinkFields",
    __base__=Parameters,
    __doc__="The query of a link.",
    prompt=(str, Field(description="What the picture shows.")),
)
ImagineFields: type[Document] = create_model(
    "ImagineFields",
    __base__=LinkFields,
    __doc__="The query of a link that names the model.",
    model=(str | None, Field(None, description="A served model; optional if it is the only.")),
    img_size=(WholeNumber | None, Field(None, description="Sets `width` and `height`.")),
)


class PictureLink(WireFormat):
    """A link to a picture of the model in the path."""

    name = "picture link"
    method = "GET"
    summary = "A picture as a link"
    description = (
        "With `seed`, the response has an `ETag`. HEAD checks the query and draws nothing."
    )
    request_headers: ClassVar[Mapping[str, str]] = {
        "if-none-match": "An `ETag`: if the picture is still the same, the response is 304."
    }
    paths = ("/v1/models/{model_name}/picture",)
    fields: ClassVar[type[Document]] = LinkFields

    def document(self, content: Any, headers: Mapping[str, str]) -> dict[str, Any]:
        """The query as a JSON object."""
        document = typed(nested(query_fields(content)), {"model": True, "img_size": False})
        check_shape(document)
        return document

    def parse(self, document: Any, message: Message, limits: CallLimits) -> ParsedBody:
        """See ``WireFormat.parse``."""
        # A reader process sends JSON.
        query = read_json(document) if isinstance(document, bytes) else document
        values, written = self._values(query)
        if values.get("num_images_per_prompt", 1) != 1:
            raise InvalidRequestError(
                written["num_images_per_prompt"], "a link leads to one picture"
            )
        form = LinkForm(
            "seed" in values and values["seed"] != _ANY_SEED,
            message.is_head,
            message.headers.get("if-none-match", ""),
        )
        return ParsedBody((values,), (written,), False, None, form)

    def body_schema(self, definitions_at: str) -> BodySchema:
        """The fields of the query."""
        schema = self.fields.model_json_schema(ref_template=definitions_at + "{model}")
        return BodySchema("", schema, schema.pop("$defs", {}))

    def answers(self) -> tuple[Answer, ...]:
        """The file, or nothing if the client has it."""
        content = {f"image/{name}": BINARY for name in dict.fromkeys(FORMATS.values())}
        cached = ("etag", "cache-control")
        return (
            Answer("The picture.", content, (*RESPONSE_HEADERS, *cached)),
            Answer("The client has the picture.", {}, cached, _NOT_MODIFIED),
        )

    def examples(self) -> dict[str, dict[str, Any]]:
        """A picture that clients may keep."""
        return {"a picture": {"prompt": EXAMPLE_PROMPT, "seed": 7}}

    def _values(self, query: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        return given(validated(self.fields, query)), dict(spellings(query))

    def decode(self, body: ParsedBody, limits: Limits, images: PictureSource | None = None) -> Call:
        """See ``WireFormat.decode``; a response without a picture if the client has it already."""
        call = decode_call(body, limits, images)
        assert isinstance(body.form, LinkForm)
        form = body.form.tagged(call, limits)
        return replace(call, form=form, known=form.known(call))


class ImagineLink(PictureLink):
    """The link of Ray Serve's Stable Diffusion template, for any model.

    https://docs.ray.io/en/latest/serve/tutorials/stable-diffusion.html
    """

    name = "imagine link"
    summary = "A picture as a link, in the form of Ray Serve's template"
    paths = ("/imagine",)
    fields = ImagineFields

    def _values(self, query: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        values, written = super()._values(query)
        side = query.get("img_size")
        if side is None:
            return values, written
        for name in ("width", "height"):
            if name in values:
                raise InvalidRequestError(
                    name, f"is given twice, as `{written[name]}` and `img_size`"
                )
        sides = {"width": int(side), "height": int(side)}
        return values | sides, written | dict.fromkeys(sides, "img_size")


@dataclass(frozen=True)
class LinkForm(PredictEvents):
    """The response to a link; ``etag`` is empty without a seed."""

    has_seed: bool
    is_head: bool
    if_none_match: str
    etag: str = ""

    def tagged(self, call: Call, limits: Limits) -> LinkForm:
        """The form with the tag of the picture of ``call``."""
        return replace(self, etag=_etag(call, limits)) if self.has_seed else self

    @property
    def headers(self) -> dict[str, str]:
        """Whether and how long a client may keep the picture."""
        if not self.has_seed:
            return {"cache-control": "no-store"}
        return {"etag": self.etag, "cache-control": f"max-age={_MAX_AGE_SECONDS}"}

    def known(self, call: Call) -> EncodedResponse | None:
        """The response if it needs no picture: the client has it, or wants the headers only."""
        if self.has_seed and _matches(self.if_none_match, self.etag):
            return EncodedResponse(b"", self.headers, _NOT_MODIFIED)
        if self.is_head:
            media_type = f"image/{call.pictures[0].output_format}"
            return EncodedResponse(b"", self.headers | {"content-type": media_type})
        return None

    def encoder(
        self, call: Call, results: Sequence[GenerationResult], **origin: Any
    ) -> ResponseEncoder:
        """See ``ResponseForm``."""
        encoder = ResponseEncoder(call, results, **origin)
        encoder.headers |= self.headers
        return encoder


def _etag(call: Call, limits: Limits) -> str:
    """A strong tag of everything that the picture's file follows from.

    Any setting changes it, as most of those of the engine and of safety change the file.
    """
    request, output_format, _ = call.pictures[0]
    settings = limits.settings.model_dump(mode="json")
    parts = [limits.profile.revision, request.parameters(), output_format, settings]
    digest = hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return f'"{digest[:32]}"'


def _matches(if_none_match: str, etag: str) -> bool:
    """Whether the header names the tag (RFC 9110, section 13.1.2)."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags
