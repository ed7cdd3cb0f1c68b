"""Why the server refuses requests, for the metric: by error, else by HTTP status."""

from __future__ import annotations

from predictor.errors import (
    OverloadedError,
    RefusedBySafetyError,
    ShuttingDownError,
    WaitTooLongError,
)
from predictor.metrics import Refusal

_BY_ERROR: dict[type[BaseException], Refusal] = {
    OverloadedError: "queue",
    WaitTooLongError: "seconds",
    RefusedBySafetyError: "safety",
    ShuttingDownError: "draining",
}
_BY_STATUS: dict[int, Refusal] = {
    400: "invalid",
    401: "key",
    403: "key",
    404: "not_found",
    405: "invalid",
    408: "invalid",
    413: "too_large",
    414: "too_large",
    415: "invalid",
    422: "invalid",
    429: "limit",
    431: "too_large",
    503: "unavailable",
}


def refusal_of(error: type[BaseException] | None, status: int) -> Refusal | None:
    """Why a request was refused that ends with ``error`` and ``status``; None if it was not."""
    known = (_BY_ERROR[kind] for kind in (error.__mro__ if error else ()) if kind in _BY_ERROR)
    return next(known, _BY_STATUS.get(status))
