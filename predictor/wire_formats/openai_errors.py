"""Errors in OpenAI's form, for all routes of its API, from the middleware too.

https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

import re
from typing import Any

from predictor.errors import (
    InvalidRequestError,
    NotAuthenticatedError,
    NotAuthorizedError,
    OverloadedError,
    RateLimitedError,
    RefusedBySafetyError,
    UnknownModelError,
)

PATHS = re.compile(r"/openai/v1/.*|/v1/images/.*", re.DOTALL)

_FORBIDDEN, _TOO_MANY_REQUESTS, _SERVER_ERROR = 403, 429, 500

_CODES: dict[type[BaseException], str] = {
    UnknownModelError: "model_not_found",
    RefusedBySafetyError: "moderation_blocked",
    NotAuthenticatedError: "invalid_api_key",
    NotAuthorizedError: "insufficient_permissions",
    RateLimitedError: "rate_limit_exceeded",
    OverloadedError: "server_overloaded",
}


def error_body(reason: str, status: int, error: BaseException | None) -> dict[str, Any]:
    """The body for an HTTP status; ``error`` adds the field and a code."""
    is_about_field = isinstance(error, InvalidRequestError) and error.field
    return {
        "error": {
            "message": reason,
            "type": _type(status),
            "param": error.field if is_about_field else None,  # type: ignore[union-attr]
            "code": _code(error),
        }
    }


def _type(status: int) -> str:
    if status >= _SERVER_ERROR:
        return "server_error"
    if status == _TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "permission_error" if status == _FORBIDDEN else "invalid_request_error"


def _code(error: BaseException | None) -> str | None:
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), None)
