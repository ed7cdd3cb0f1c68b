"""The table from errors to HTTP statuses, and the body of an error, as in the predictor."""

from __future__ import annotations

import logging
from http import HTTPStatus
from math import ceil

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ExceptionHandler

from jobs.errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    BucketError,
    BucketRefusedError,
    IdempotencyConflictError,
    InvalidRequestError,
    JobNotFoundError,
    JobsError,
    KeyLimitError,
    NotAuthenticatedError,
    PictureGoneError,
    PictureNotFoundError,
    QueueFullError,
    StorageUnavailableError,
    UnknownModelError,
)

logger = logging.getLogger(__name__)

STATUS: dict[type[JobsError], HTTPStatus] = {
    InvalidRequestError: HTTPStatus.BAD_REQUEST,
    NotAuthenticatedError: HTTPStatus.UNAUTHORIZED,
    UnknownModelError: HTTPStatus.NOT_FOUND,
    JobNotFoundError: HTTPStatus.NOT_FOUND,
    PictureNotFoundError: HTTPStatus.NOT_FOUND,
    BodyTooSlowError: HTTPStatus.REQUEST_TIMEOUT,
    IdempotencyConflictError: HTTPStatus.CONFLICT,
    PictureGoneError: HTTPStatus.GONE,
    BodyTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    QueueFullError: HTTPStatus.TOO_MANY_REQUESTS,
    KeyLimitError: HTTPStatus.TOO_MANY_REQUESTS,
    StorageUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    BucketError: HTTPStatus.SERVICE_UNAVAILABLE,
    BucketRefusedError: HTTPStatus.SERVICE_UNAVAILABLE,
}
_MAX_RETRY_AFTER_SECONDS = 300
# The rest of the body would arrive for nothing.
_CLOSES = {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT}


def exception_handlers() -> dict[type[Exception] | int, ExceptionHandler]:
    """Answer errors according to the table; any other error without its text."""
    return {
        JobsError: _respond,
        HTTPException: _respond_to_router,
        Exception: _respond_unexpected,
    }


async def _respond(_: Request, error: Exception) -> Response:
    assert isinstance(error, JobsError)
    return response_to(error)


def response_to(error: JobsError) -> Response:
    """The response to an error of the table."""
    status = STATUS[type(error)]
    headers = {}
    if seconds := getattr(error, "retry_after_seconds", None):
        headers["retry-after"] = str(max(1, min(ceil(seconds), _MAX_RETRY_AFTER_SECONDS)))
    if status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if status in _CLOSES:
        headers["connection"] = "close"
    return JSONResponse({"error": str(error)}, status, headers)


async def _respond_to_router(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reason = f"{request.url.path}: {error.detail}"
    return JSONResponse({"error": reason}, error.status_code, error.headers)


async def _respond_unexpected(_: Request, error: Exception) -> Response:
    """Not logged here: Starlette raises the error again, and the server logs it."""
    reason = "the request failed in the server; its log has the cause"
    return JSONResponse({"error": reason}, HTTPStatus.INTERNAL_SERVER_ERROR)
