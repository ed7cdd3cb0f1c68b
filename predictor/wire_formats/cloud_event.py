"""CloudEvents in structured mode on ``:predict``: the event of a request holds the body.

The attributes of every response event are here too. Type and source are KServe's, and so are the
environment variables that change them (CE_TYPE, CE_SOURCE, CE_MERGE).
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import orjson

from predictor.errors import InvalidRequestError
from predictor.protocol import Call, EncodedResponse, Encoder, ResponseEncoder
from predictor.protocol.accept import JSON
from predictor.protocol.decode import ParsedBody, read_document
from predictor.protocol.encode import PredictEvents, write_base64
from predictor.protocol.json_body import read_json
from predictor.requests import CallLimits, GenerationResult
from predictor.wire_formats.kserve_predict import Predict
from predictor.wire_formats.wire_format import Message

STRUCTURED = "application/cloudevents+json"
REQUIRED = ("id", "source", "type", "specversion")
_VERSIONS = ("1.0", "0.3")
_DATA = ("data", "data_base64")
# Where the document of a request keeps the attributes; no field has this name.
_ATTRIBUTES = "cloudevents:attributes"
# A response has its own values of these, even if CE_MERGE copies the rest from the request.
_OWN = {"id", "time", "type", "source", "specversion", "datacontenttype"}


class StructuredEvent(Predict):
    """The body of ``:predict`` inside an event, which a reader process parses if it is large."""

    name = "structured-event"
    # ``DiffusionDataPlane`` finds it by the content type of a ``:predict``.
    paths: ClassVar[tuple[str, ...]] = ()

    def document(self, content: Any, headers: Mapping[str, str]) -> dict[str, Any]:
        """The data of the event as a JSON object, and its attributes.

        Raises:
            InvalidRequestError: names the attribute and the reason.
        """
        event = read_json(content)
        if not isinstance(event, dict):
            raise InvalidRequestError("", "a CloudEvent must be a JSON object")
        attributes = {name: value for name, value in event.items() if name not in _DATA}
        check_attributes(attributes)
        return {**read_document(_data(event)), _ATTRIBUTES: attributes}

    def parse(self, document: Any, message: Message, limits: CallLimits) -> ParsedBody:
        """See ``WireFormat.parse``."""
        # A reader process sends JSON.
        body = read_json(document) if isinstance(document, bytes) else dict(document)
        form = EventForm(body.pop(_ATTRIBUTES))
        return super().parse(body, message, limits)._replace(form=form)


STRUCTURED_EVENT = StructuredEvent()


def check_attributes(attributes: Mapping[str, Any]) -> None:
    """Check the attributes of the event of a request.

    Raises:
        InvalidRequestError: names the attribute and the reason.
    """
    for name in REQUIRED:
        if not isinstance(attributes.get(name), str) or not attributes[name]:
            raise InvalidRequestError(name, "is missing, but a CloudEvent requires it")
    if attributes["specversion"] not in _VERSIONS:
        raise InvalidRequestError("specversion", f"must be one of {', '.join(_VERSIONS)}")


def response_attributes(model_name: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a response event; ``request`` has those of the request."""
    is_merged = os.environ.get("CE_MERGE", "false").lower() == "true"
    copied = {} if not is_merged else request
    return {name: value for name, value in copied.items() if name not in _OWN} | {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "type": os.environ.get("CE_TYPE", "io.kserve.inference.response"),
        "source": os.environ.get("CE_SOURCE", f"io.kserve.inference.{model_name}"),
        "time": datetime.now(UTC).isoformat(),
    }


def _data(event: dict[str, Any]) -> Any:
    if "data_base64" not in event:
        return event.get("data")
    try:
        return base64.b64decode(event["data_base64"], validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise InvalidRequestError("data_base64", "is not valid base64") from None


@dataclass(frozen=True)
class EventForm(PredictEvents):
    """The response: an event with the body that ``:predict`` has; ``attributes`` of the request."""

    attributes: dict[str, Any]

    def encoder(
        self,
        call: Call,
        results: Sequence[GenerationResult],
        *,
        model_name: str,
        revision: str,
        embed_metadata: bool,
    ) -> Encoder:
        """See ``ResponseForm``; a stream consists of server-sent events only."""
        encoder = ResponseEncoder(
            call, results, model_name=model_name, revision=revision, embed_metadata=embed_metadata
        )
        if call.as_events:
            return encoder
        return EventEncoder(encoder, response_attributes(model_name, self.attributes))


class EventEncoder:
    """Puts the response of ``:predict`` into an event: predictions as JSON, a file as base64."""

    def __init__(self, encoder: ResponseEncoder, attributes: dict[str, Any]) -> None:
        self._encoder = encoder
        self._event = attributes

    @property
    def pictures(self) -> int:
        """How many there are to add."""
        return self._encoder.pictures

    def add(self, index: int) -> None:
        """Encode the next picture; see ``ResponseEncoder.add``."""
        self._encoder.add(index)

    def response(self) -> EncodedResponse:
        """The response, once all pictures are added."""
        inner = self._encoder.response()
        media_type = inner.headers["content-type"]
        body = io.BytesIO()
        body.write(orjson.dumps(self._event | {"datacontenttype": media_type})[:-1])
        if media_type == JSON:
            body.write(b',"data":')
            body.write(inner.body)
        else:
            body.write(b',"data_base64":"')
            write_base64(body, inner.body)
            body.write(b'"')
        body.write(b"}")
        return EncodedResponse(body.getvalue(), inner.headers | {"content-type": STRUCTURED})
