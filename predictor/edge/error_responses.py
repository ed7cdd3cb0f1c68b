"""The table from errors, ours and KServe's, to HTTP statuses, and the body of an error."""

from __future__ import annotations

from http import HTTPStatus
from math import ceil

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from kserve.errors import (
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ServerNotReady,
    UnsupportedProtocol,
)

from predictor.errors import (
    BodyTooLargeError,
    DeadlineExceededError,
    GenerationFailedError,
    InvalidRequestError,
    LimitsUnavailableError,
    ModelUnavailableError,
    NotAuthenticatedError,
    NotAuthorizedError,
    OverloadedError,
    RateLimitedError,
    RefusedBySafetyError,
    ShuttingDownError,
)

STATUS: dict[type[Exception], HTTPStatus] = {
    InvalidRequestError: HTTPStatus.BAD_REQUEST,
    InvalidInput: HTTPStatus.BAD_REQUEST,
    RefusedBySafetyError: HTTPStatus.BAD_REQUEST,
    NotAuthenticatedError: HTTPStatus.UNAUTHORIZED,
    NotAuthorizedError: HTTPStatus.FORBIDDEN,
    ModelNotFound: HTTPStatus.NOT_FOUND,
    BodyTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    OverloadedError: HTTPStatus.TOO_MANY_REQUESTS,
    RateLimitedError: HTTPStatus.TOO_MANY_REQUESTS,
    GenerationFailedError: HTTPStatus.INTERNAL_SERVER_ERROR,
    NotImplementedError: HTTPStatus.NOT_IMPLEMENTED,
    UnsupportedProtocol: HTTPStatus.NOT_IMPLEMENTED,
    LimitsUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    ModelUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    ShuttingDownError: HTTPStatus.SERVICE_UNAVAILABLE,
    ModelNotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    ServerNotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    DeadlineExceededError: HTTPStatus.GATEWAY_TIMEOUT,
}

_RETRY_AFTER = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_RETRY_AFTER_SECONDS = 5


def register_error_responses(app: FastAPI) -> None:
    """Answer errors according to the table; any other error without its text."""
    for error_type in STATUS:
        app.add_exception_handler(error_type, _respond)
    app.add_exception_handler(Exception, _respond_unexpected)


def status_of(error: Exception) -> HTTPStatus:
    """The HTTP status for an error listed in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def response_to(error: Exception) -> JSONResponse:
    """The response to an error in the table."""
    status = status_of(error)
    seconds = ceil(getattr(error, "retry_after_seconds", _RETRY_AFTER_SECONDS))
    headers = {"retry-after": str(seconds)} if status in _RETRY_AFTER else {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"error": str(error)}, status_code=status, headers=headers)


async def _respond(_: Request, error: Exception) -> JSONResponse:
    return response_to(error)


async def _respond_unexpected(_: Request, error: Exception) -> JSONResponse:
    """Not logged here: Starlette raises the error again, and the server logs it."""
    return JSONResponse(
        {"error": "the request failed in the server; its log has the cause"},
        status_code=HTTPStatus.INTERNAL_SERVER_ERROR,
    )
