"""How a call of the predictor can fail, and what each answer of it or of a gateway means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from jobs.strict_json import read_json

# The predictor takes no call now. It has computed nothing, or will not finish. If it rejects the
# key of this program, the configuration is wrong and not the job.
_REFUSALS = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
}
# Another try may succeed.
_FAILURES = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.GATEWAY_TIMEOUT,
}
# From a gateway that cannot reach the predictor: it has no route yet (404), or has waited for the
# predictor to start (504). A predictor that runs begins its response at once.
_GATEWAY_REFUSALS = _REFUSALS | {HTTPStatus.NOT_FOUND, HTTPStatus.GATEWAY_TIMEOUT}
# What Go (Knative's queue-proxy and activator) and Envoy write if a connection ends after they have
# sent the request. For a connection that they cannot open, Go writes "dial tcp", Envoy "remote
# connection failure".
_CONNECTION_ENDED = re.compile(
    rb"\bEOF\b|connection reset by peer|broken pipe|closed network connection|connection broken"
    rb"|reset reason: (connection termination|protocol error)"
)
_NO_CONNECTION = b"dial "


class CallError(Exception):
    """Base of the errors of a call; the text is safe to show to a caller."""


class CallRefusedError(CallError):
    """The predictor is not running, still starts, or is busy: wait, and call again."""

    def __init__(self, reason: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class CallFailedError(CallError):
    """The predictor stopped, or could not make the pictures: a try has failed."""


class CallRejectedError(CallError):
    """The predictor rejects the request, so another try would be rejected too."""


def error_of_response(status: int, content: bytes, retry_after: str) -> CallError:
    """The error of a response; ``retry_after`` is that header, or empty."""
    seconds = float(retry_after) if retry_after.isdecimal() else None
    if reason := _reason(_document(content)):
        return _error(status, reason, seconds)
    # Not the predictor's form, so it is from a gateway.
    reason = f"the predictor responded with status {status}"
    if status not in _GATEWAY_REFUSALS:
        return _error(status, reason, seconds)
    if _CONNECTION_ENDED.search(content) and not content.startswith(_NO_CONNECTION):
        return CallFailedError("the predictor stopped before it responded")
    return CallRefusedError(reason, seconds)


def error_of_event(data: bytes) -> CallError:
    """The error of an ``error`` event, as if its status were that of the response."""
    document = _document(data)
    reason = _reason(document) or "the predictor reports an error"
    status, seconds = document.get("status"), document.get("retry_after")
    if type(status) is not int:  # older predictors send none
        status = HTTPStatus.INTERNAL_SERVER_ERROR
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds <= 0:
        seconds = None
    return _error(status, reason, seconds)


def _error(status: int, reason: str, retry_after_seconds: float | None) -> CallError:
    if status in _REFUSALS:
        return CallRefusedError(reason, retry_after_seconds)
    if status in _FAILURES:
        return CallFailedError(reason)
    return CallRejectedError(reason)


def _document(content: bytes) -> Mapping[str, Any]:
    try:
        document = read_json(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _reason(document: Mapping[str, Any]) -> str | None:
    """The sentence of the predictor's error; None for a document of another server."""
    reason = document.get("error")
    return reason if isinstance(reason, str) else None
