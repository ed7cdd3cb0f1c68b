"""The table from errors, ours and KServe's, to HTTP statuses, and the body of an error."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from math import ceil
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from kserve.errors import (
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ServerNotLive,
    ServerNotReady,
    UnsupportedProtocol,
)

from predictor.edge.router_errors import body_of_error, register_router_errors
from predictor.errors import (
    BodyMemoryError,
    BodyReaderKilledError,
    BodyTooLargeError,
    DeadlineExceededError,
    GenerationFailedError,
    InterruptedCallError,
    InvalidRequestError,
    LimitsUnavailableError,
    ModelUnavailableError,
    NotAuthenticatedError,
    NotAuthorizedError,
    OverloadedError,
    RateLimitedError,
    RefusedBySafetyError,
    ShuttingDownError,
    UnknownModelError,
    UnsupportedMediaTypeError,
)
from predictor.request_context import current_request

STATUS: dict[type[Exception], HTTPStatus] = {
    InvalidRequestError: HTTPStatus.BAD_REQUEST,
    InvalidInput: HTTPStatus.BAD_REQUEST,
    RefusedBySafetyError: HTTPStatus.BAD_REQUEST,
    NotAuthenticatedError: HTTPStatus.UNAUTHORIZED,
    NotAuthorizedError: HTTPStatus.FORBIDDEN,
    ModelNotFound: HTTPStatus.NOT_FOUND,
    UnknownModelError: HTTPStatus.NOT_FOUND,
    InterruptedCallError: HTTPStatus.CONFLICT,
    BodyTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedMediaTypeError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    OverloadedError: HTTPStatus.TOO_MANY_REQUESTS,
    RateLimitedError: HTTPStatus.TOO_MANY_REQUESTS,
    GenerationFailedError: HTTPStatus.INTERNAL_SERVER_ERROR,
    NotImplementedError: HTTPStatus.NOT_IMPLEMENTED,
    UnsupportedProtocol: HTTPStatus.NOT_IMPLEMENTED,
    LimitsUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    BodyReaderKilledError: HTTPStatus.SERVICE_UNAVAILABLE,
    ModelUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    ShuttingDownError: HTTPStatus.SERVICE_UNAVAILABLE,
    ModelNotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    ServerNotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    ServerNotLive: HTTPStatus.SERVICE_UNAVAILABLE,
    DeadlineExceededError: HTTPStatus.GATEWAY_TIMEOUT,
}

_RETRY_AFTER = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_RETRY_AFTER_SECONDS = 5
_MAX_RETRY_AFTER_SECONDS = 300
# The rest of the body would arrive for nothing.
_CLOSES = {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE}


def register_error_responses(app: FastAPI, is_draining: Callable[[], bool] = lambda: False) -> None:
    """Answer errors according to the table; any other error without its text."""

    async def respond(_: Request, error: Exception) -> JSONResponse:
        return response_to(error, is_draining=is_draining())

    for error_type in STATUS:
        app.add_exception_handler(error_type, respond)
    app.add_exception_handler(Exception, _respond_unexpected)
    register_router_errors(app)


def status_of(error: Exception) -> HTTPStatus:
    """The HTTP status for an error listed in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def note_error(error: Exception) -> None:
    """Record the error that ends the current request, for metrics and the trace."""
    current_request().error = type(error)


def error_body(error: Exception) -> dict[str, Any]:
    """The body of the response to an error in the table."""
    return body_of_error(str(error), status_of(error), error)


def error_event_data(error: Exception) -> dict[str, Any]:
    """The data of the event that ends a stream: the body, and what the head can no longer say.

    Other protocols define their own events, so only that of ``:predict`` has the additions.
    """
    body = error_body(error)
    if current_request().error_form:
        return body
    status = status_of(error)
    seconds = _retry_after(error, status)
    return {**body, "status": status} | ({"retry_after": seconds} if seconds else {})


def response_to(error: Exception, *, is_draining: bool = False) -> JSONResponse:
    """The response to an error in the table.

    A server that drains has no place for a call that is refused now: another pod may have one.
    """
    if is_draining and isinstance(error, OverloadedError):
        reason = f"the server shuts down, and its queue is full: {error}"
        error = ShuttingDownError(reason, error.retry_after_seconds)
    note_error(error)
    status = status_of(error)
    seconds = _retry_after(error, status)
    headers = {"retry-after": str(seconds)} if seconds else {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if status in _CLOSES or isinstance(error, BodyMemoryError):
        headers["connection"] = "close"
    if status is HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
        headers["accept-encoding"] = "identity"  # RFC 9110, section 12.5.3
    return JSONResponse(error_body(error), status_code=status, headers=headers)


def _retry_after(error: Exception, status: HTTPStatus) -> int | None:
    """When to send the request again, in seconds; None if a status does not say so."""
    if status not in _RETRY_AFTER:
        return None
    seconds = ceil(getattr(error, "retry_after_seconds", _RETRY_AFTER_SECONDS))
    return max(1, min(seconds, _MAX_RETRY_AFTER_SECONDS))


def not_ready(model_name: str) -> JSONResponse:
    """KServe's response for a model that is not loaded."""
    return response_to(ModelNotReady(model_name))


async def _respond_unexpected(_: Request, error: Exception) -> JSONResponse:
    """Not logged here: Starlette raises the error again, and the server logs it."""
    note_error(error)
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    reason = "the request failed in the server; its log has the cause"
    return JSONResponse(body_of_error(reason, status), status_code=status)
