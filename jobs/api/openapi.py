"""``GET /openapi.json``: all routes, with the bounds of this server's settings.

https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from inspect import getdoc
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from jobs.api.access import OPEN_PATHS
from jobs.api.error_responses import STATUS
from jobs.api.openapi_schemas import parameters, reference, schemas
from jobs.errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    BucketError,
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
from jobs.settings import Settings

_JSON = "application/json"
_INFO = {
    "title": "Stable Diffusion on KServe: jobs",
    "version": "0.1.0",
    "description": "The bounds are those of this server's settings. HEAD works wherever GET does. "
    "A request whose head is not valid, too long or too slow gets 400, 408, 414 or 431.",
}
_HEADERS_OF_ERRORS = {401: ("www-authenticate",), 429: ("retry-after",), 503: ("retry-after",)}


@dataclass(frozen=True)
class Operation:
    """A route; ``responses`` has the statuses that are not those of ``errors``."""

    summary: str
    responses: Mapping[int, Mapping[str, Any]]
    errors: tuple[type[JobsError], ...] = ()
    parameters: tuple[str, ...] = ()


def _response(text: str, schema: Any = None, *headers: str, media: str = _JSON) -> dict[str, Any]:
    """A response; a name as the schema is that of a component."""
    schema = reference("schemas", schema) if isinstance(schema, str) else schema
    return {
        "description": text,
        "headers": {name: {"schema": {"type": "string"}} for name in headers},
        "content": {} if schema is None else {media: {"schema": schema}},
    }


_LOCATED = ("location", "preference-applied")
_SUBMISSION_ERRORS = (
    *(InvalidRequestError, UnknownModelError, BodyTooSlowError, IdempotencyConflictError),
    *(BodyTooLargeError, QueueFullError, KeyLimitError, StorageUnavailableError),
)
_JOB_ERRORS = (JobNotFoundError, StorageUnavailableError)
_FILE_ERRORS = (*_JOB_ERRORS, PictureNotFoundError, PictureGoneError, BucketError)
_FILE_PARAMETERS = ("If-None-Match", "Range", "If-Range")
_FILE = {
    200: _response("The file.", {}, "etag", "cache-control", media="image/*"),
    206: _response("A part of it.", {}, "etag", "cache-control", "content-range", media="image/*"),
    304: _response("The client has the file.", None, "etag", "cache-control"),
    307: _response("The file is in the bucket.", None, "location", "cache-control"),
    416: _response("The file has no such part.", "Error", "etag", "cache-control", "content-range"),
}
_BOOLEAN = {"type": "object", "additionalProperties": {"type": "boolean"}}

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("post", "/v1/jobs"): Operation(
        "Submit a job",
        {
            200: _response("The job, which has already ended.", "Job", *_LOCATED),
            202: _response("The job, which has not ended yet.", "Job", *_LOCATED),
        },
        _SUBMISSION_ERRORS,
        ("Idempotency-Key", "Prefer"),
    ),
    ("get", "/v1/jobs"): Operation(
        "List jobs, the newest first",
        {200: _response("A page of jobs.", "Page")},
        (InvalidRequestError, StorageUnavailableError),
        ("status", "limit", "cursor"),
    ),
    ("get", "/v1/jobs/{id}"): Operation(
        "The job", {200: _response("The job.", "Job")}, _JOB_ERRORS, ("Prefer",)
    ),
    ("delete", "/v1/jobs/{id}"): Operation(
        "Cancel the job, unless it has ended", {200: _response("The job.", "Job")}, _JOB_ERRORS
    ),
    ("get", "/v1/jobs/{id}/events"): Operation(
        "The job at each change, until it has ended",
        {200: _response("The events.", "Event", "cache-control", media="text/event-stream")},
        _JOB_ERRORS,
    ),
    ("get", "/v1/jobs/{id}/pictures/{number}"): Operation(
        "A picture as a file", _FILE, _FILE_ERRORS, _FILE_PARAMETERS
    ),
    ("post", "/generate"): Operation(
        "Submit a job",
        {202: _response("The job.", "ShortJob")},
        _SUBMISSION_ERRORS,
        ("Idempotency-Key",),
    ),
    ("get", "/status/{id}"): Operation(
        "The status of the job", {200: _response("The status.", "ShortJob")}, _JOB_ERRORS
    ),
    ("get", "/result/{id}"): Operation(
        "The first picture of the job as a file",
        {
            **_FILE,
            202: _response("The job has not ended yet.", "ShortJob"),
            409: _response("The job has ended without pictures.", "ShortJob"),
        },
        _FILE_ERRORS,
        _FILE_PARAMETERS,
    ),
    ("get", "/metrics"): Operation(
        "Metrics for Prometheus",
        {200: _response("The metrics.", {"type": "string"}, media="text/plain")},
        (StorageUnavailableError,),
    ),
    ("get", "/v2/health/live"): Operation("Liveness", {200: _response("Live.", _BOOLEAN)}),
    ("get", "/v2/health/ready"): Operation(
        "Readiness", {200: _response("Ready.", _BOOLEAN)}, (StorageUnavailableError,)
    ),
    ("get", "/openapi.json"): Operation(
        "This document", {200: _response("The document.", {"type": "object"})}
    ),
}


def openapi_route(settings: Settings) -> Route:
    """The route of the document, which is built once."""
    document = openapi_document(settings)

    async def openapi(_: Request) -> Response:
        return JSONResponse(document)

    return Route("/openapi.json", openapi)


def openapi_document(settings: Settings) -> dict[str, Any]:
    """The document of a server with these settings."""
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), operation in OPERATIONS.items():
        is_closed = settings.api_keys_file is not None and path not in OPEN_PATHS
        described = _described(method, path, operation, settings, is_closed=is_closed)
        paths.setdefault(path, {})[method] = described
    components = {"schemas": schemas(settings), "parameters": parameters(settings)}
    if settings.api_keys_file:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {"openapi": "3.1.1", "info": _INFO, "paths": paths, "components": components}


def _described(
    method: str, path: str, operation: Operation, settings: Settings, *, is_closed: bool
) -> dict[str, Any]:
    errors = (*operation.errors, *((NotAuthenticatedError,) if is_closed else ()))
    names = (*re.findall(r"{(\w+)}", path), *operation.parameters)
    responses = {**operation.responses, **_error_responses(errors)}
    described = {
        "summary": operation.summary,
        "operationId": re.sub(r"\W+", "_", f"{method}{path}").strip("_"),
        "parameters": [reference("parameters", name) for name in names],
        "responses": {str(status): responses[status] for status in sorted(responses)},
    }
    if method == "post":
        described["requestBody"] = {
            "required": True,
            "description": f"Up to {settings.max_body_bytes} bytes.",
            "content": {_JSON: {"schema": reference("schemas", "Submission")}},
        }
    return described | ({"security": [{"key": []}]} if is_closed else {})


def _error_responses(errors: tuple[type[JobsError], ...]) -> dict[int, dict[str, Any]]:
    texts: dict[HTTPStatus, list[str]] = {}
    for error in errors:
        text = (getdoc(error) or "").partition("\n")[0].replace("``", "`")
        texts.setdefault(STATUS[error], []).append(text)
    return {
        status: _response(" ".join(found), "Error", *_HEADERS_OF_ERRORS.get(status, ()))
        for status, found in texts.items()
    }
