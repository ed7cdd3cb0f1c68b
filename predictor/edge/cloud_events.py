"""CloudEvents on ``:predict``: a request that is an event gets a response that is one.

KServe's own response calls every body JSON, although it can be a picture, and requires ``time``.
Type and source are KServe's, and so are the environment variables that change them (CE_TYPE,
CE_SOURCE, CE_MERGE). Errors are plain JSON: a broker ignores the events of failed deliveries.
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

from __future__ import annotations

import base64
import binascii
import os
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

import orjson

from predictor.errors import InvalidRequestError, UnsupportedMediaTypeError
from predictor.protocol import is_light
from predictor.protocol.json_body import read_json

_STRUCTURED = "application/cloudevents+json"
_BATCH = "application/cloudevents-batch+json"
_REQUIRED = ("id", "source", "type", "specversion")
_VERSIONS = ("1.0", "0.3")
_DATA = ("data", "data_base64")
# A response has its own values of these, even if CE_MERGE copies the rest from the request.
_OWN = {"id", "time", "type", "source", "specversion", "datacontenttype"}


class Event(NamedTuple):
    """An event of a request: its data, as bytes or as parsed JSON, and its attributes."""

    data: Any
    attributes: dict[str, Any]


class Data(bytes):
    """The data of a response event, with its media type."""

    media_type: str

    def __new__(cls, data: bytes, media_type: str) -> Self:
        """Attach the media type to the bytes."""
        made = super().__new__(cls, data)
        made.media_type = media_type
        return made


def is_event(headers: Mapping[str, str]) -> bool:
    """Whether a request with these headers, in lower case, is an event."""
    return _is_structured(headers) or all(f"ce-{name}" in headers for name in _REQUIRED)


def read_event(body: bytes, headers: Mapping[str, str]) -> Event:
    """The event of a request for which ``is_event`` holds.

    Raises:
        InvalidRequestError: names the attribute and the reason.
    """
    if _is_structured(headers):
        event = _structured(body)
    else:
        names = [name for name in headers if name.startswith("ce-")]
        event = Event(body, {name.removeprefix("ce-"): headers[name] for name in names})
    for name in _REQUIRED:
        if not isinstance(event.attributes.get(name), str) or not event.attributes[name]:
            raise InvalidRequestError(name, "is missing, but a CloudEvent requires it")
    if event.attributes["specversion"] not in _VERSIONS:
        raise InvalidRequestError("specversion", f"must be one of {', '.join(_VERSIONS)}")
    return event


def reject_batch(headers: Mapping[str, str]) -> None:
    """Check that the body is not a batch of events.

    Raises:
        UnsupportedMediaTypeError: it is one.
    """
    if _media_type(headers) == _BATCH:
        raise UnsupportedMediaTypeError(
            "the server does not read batches of CloudEvents: send each event alone"
        )


def response_event(
    model_name: str,
    data: Data | dict[str, Any],
    request_headers: Mapping[str, str],
    request_attributes: Mapping[str, Any],
) -> tuple[bytes | dict[str, Any], dict[str, str]]:
    """The body of a response in the mode of the request, and the headers that differ."""
    is_merged = os.environ.get("CE_MERGE", "false").lower() == "true"
    copied = {} if not is_merged else request_attributes
    attributes = {name: value for name, value in copied.items() if name not in _OWN} | {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "type": os.environ.get("CE_TYPE", "io.kserve.inference.response"),
        "source": os.environ.get("CE_SOURCE", f"io.kserve.inference.{model_name}"),
        "time": datetime.now(UTC).isoformat(),
    }
    if not _is_structured(request_headers):
        return data, {f"ce-{name}": str(value) for name, value in attributes.items()}
    if isinstance(data, Data):
        attributes["datacontenttype"] = data.media_type
        document = attributes | {"data_base64": base64.b64encode(data).decode()}
    else:
        document = attributes | {"datacontenttype": "application/json", "data": data}
    return orjson.dumps(document), {"content-type": _STRUCTURED}


def _structured(body: bytes) -> Event:
    # Parsed on the event loop, unlike other bodies.
    if not is_light(body):
        raise InvalidRequestError("", "the event has too many values")
    document = read_json(body)
    if not isinstance(document, dict):
        raise InvalidRequestError("", "a CloudEvent must be a JSON object")
    attributes = {name: value for name, value in document.items() if name not in _DATA}
    if "data_base64" not in document:
        return Event(document.get("data"), attributes)
    try:
        return Event(base64.b64decode(document["data_base64"], validate=True), attributes)
    except (TypeError, ValueError, binascii.Error):
        raise InvalidRequestError("data_base64", "is not valid base64") from None


def _is_structured(headers: Mapping[str, str]) -> bool:
    return _media_type(headers) == _STRUCTURED


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()
