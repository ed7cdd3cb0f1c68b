"""CloudEvents on ``:predict``: a request that is an event gets a response that is one.

This module has the binary mode, where headers hold the attributes. ``wire_formats/cloud_event.py``
has the structured mode. KServe's own response calls every body JSON, although it can be a picture,
and requires ``time``. Errors are plain JSON: a broker ignores the events of failed deliveries.
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from predictor.errors import UnsupportedMediaTypeError
from predictor.wire_formats.cloud_event import (
    REQUIRED,
    STRUCTURED,
    check_attributes,
    response_attributes,
)

_BATCH = "application/cloudevents-batch+json"


def is_structured(headers: Mapping[str, str]) -> bool:
    """Whether the body of a request with these headers, in lower case, is an event."""
    return _media_type(headers) == STRUCTURED


def is_binary(headers: Mapping[str, str]) -> bool:
    """Whether the headers of a request, in lower case, are those of an event."""
    return not is_structured(headers) and all(f"ce-{name}" in headers for name in REQUIRED)


def binary_attributes(headers: Mapping[str, str]) -> dict[str, Any]:
    """The attributes of an event in binary mode.

    Raises:
        InvalidRequestError: names the attribute and the reason.
    """
    names = [name for name in headers if name.startswith("ce-")]
    attributes = {name.removeprefix("ce-"): headers[name] for name in names}
    check_attributes(attributes)
    return attributes


def reject_batch(headers: Mapping[str, str]) -> None:
    """Check that the body is not a batch of events.

    Raises:
        UnsupportedMediaTypeError: it is one.
    """
    if _media_type(headers) == _BATCH:
        raise UnsupportedMediaTypeError(
            "the server does not read batches of CloudEvents: send each event alone"
        )


def response_headers(model_name: str, request_attributes: Mapping[str, Any]) -> dict[str, str]:
    """The headers of a response event in binary mode; its body stays as it is."""
    attributes = response_attributes(model_name, request_attributes)
    return {f"ce-{name}": str(value) for name, value in attributes.items()}


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()
