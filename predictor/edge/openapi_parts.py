"""The shared parts of the OpenAPI document: error responses, headers, and the form of keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from predictor.errors import (
    BodyTooLargeError,
    DeadlineExceededError,
    GenerationFailedError,
    InterruptedCallError,
    InvalidRequestError,
    NotAuthenticatedError,
    NotAuthorizedError,
    OverloadedError,
    ShuttingDownError,
    UnknownModelError,
    UnsupportedMediaTypeError,
)
from predictor.protocol.accept import JSON
from predictor.protocol.json_schema import Schema, schema_of
from predictor.wire_formats import ErrorForm, error_form

# Every status of an error: when it occurs, and an error that it answers.
ERRORS: Mapping[int, tuple[str, Exception]] = {
    400: (
        "A field is unknown, missing, of the wrong type or out of bounds, or a safety layer blocks "
        "the only picture.",
        InvalidRequestError("width", "63 is not between 64 and 2048"),
    ),
    401: (
        "The request has no valid key.",
        NotAuthenticatedError("a key is required: send `Authorization: Bearer <key>`"),
    ),
    403: (
        "The key is not that of an admin, or a proxy hides the caller.",
        NotAuthorizedError("this route requires the key of an admin"),
    ),
    404: (
        "The server does not have the model or the file.",
        UnknownModelError("model", '"sdxl" is not served; the server has stable-diffusion'),
    ),
    405: ("The path does not support the method.", Exception("/ does not support POST; use GET")),
    408: (
        "The request did not arrive in time.",
        Exception("the request was not complete after 20 s of waiting"),
    ),
    409: (
        "`interrupt` has ended the request.",
        InterruptedCallError("the caller interrupted the call"),
    ),
    413: (
        "The body is too long.",
        BodyTooLargeError("the request body is longer than 16777216 bytes"),
    ),
    414: ("The URL is too long.", Exception("the URL is longer than 8192 bytes")),
    415: (
        "The body is compressed, or a batch of CloudEvents.",
        UnsupportedMediaTypeError(
            "the server does not read compressed bodies: send the body without Content-Encoding"
        ),
    ),
    429: (
        "The server is overloaded, or a limit of the key or the address is reached.",
        OverloadedError("the queue is full: 64 pictures are waiting; try again later"),
    ),
    431: (
        "The headers are too long, or too many.",
        Exception("the request headers are longer than 65536 bytes"),
    ),
    500: (
        "The picture could not be generated.",
        GenerationFailedError("encoding the picture failed; the server's log has the cause"),
    ),
    501: (
        "The server has only one model, and does not unload it.",
        NotImplementedError("a server of a single model does not unload it"),
    ),
    503: (
        "The model is not loaded, the limits cannot be checked, or the server shuts down.",
        ShuttingDownError("the server shuts down before the request is done; send it again"),
    ),
    504: (
        "The request was not done in time.",
        DeadlineExceededError("not done within 30 s: the model is still loading"),
    ),
}
# Sent before the route is known, so always in KServe's form, and without an identifier.
OF_CONNECTIONS = (408, 414, 431)
_HEADERS_OF_ERRORS = {
    401: ("www-authenticate",),
    405: ("allow",),
    429: ("retry-after",),
    503: ("retry-after",),
}

HEADERS: Mapping[str, str] = {
    "x-request-id": "The identifier that the request sent, or a new one. The log has it.",
    "x-seed": "The seed of each picture, separated by commas. Streams have no header of pictures.",
    "x-generation-seconds": "The time in the pipeline.",
    "x-queue-seconds": "The wait before it.",
    "x-first-step-seconds": "The time from arrival to the end of the first denoising step.",
    "x-model-name": "The model.",
    "x-model-revision": "The commit or digest of the model.",
    "x-safety": "The safety layers that fired, if any.",
    "x-warning": "Warnings, if there are any.",
    "retry-after": "Seconds to wait before the next try.",
    "www-authenticate": "`Bearer`.",
    "allow": "The methods that the path supports.",
    "etag": "A strong tag of the content.",
    "cache-control": "Whether and how long a client may keep the content.",
    "inference-header-content-length": "The length of the JSON, if binary tensors follow it.",
}

SECURITY_SCHEMES = {"key": {"type": "http", "scheme": "bearer"}}


def headers(*names: str) -> dict[str, Any]:
    """References to the headers of a response from a route, which always has an identifier."""
    return {
        name: {"$ref": f"#/components/headers/{name}"}
        for name in dict.fromkeys(("x-request-id", *names))
    }


def header_components() -> dict[str, Any]:
    """All headers that ``headers`` refers to."""
    return {
        name: {"description": text, "schema": {"type": "string"}} for name, text in HEADERS.items()
    }


class ErrorComponents:
    """The error responses that a document refers to, each in the form of its protocol."""

    def __init__(self) -> None:
        self.responses: dict[str, Any] = {}
        self._bodies: dict[str, list[Any]] = {}
        # No operation has it, because the document has only methods that a path supports.
        self.reference("/", 405)

    def reference(self, path: str, status: int) -> dict[str, str]:
        """A reference to the response with an error at a path."""
        form = None if status in OF_CONNECTIONS else error_form(path)
        # Such as ``openai_errors``.
        name = form.__module__.rpartition(".")[2] if form else "errors"
        self._add(name, form, status)
        return {"$ref": f"#/components/responses/{name}_{status}"}

    @property
    def schemas(self) -> dict[str, Schema]:
        """The form of the errors of each protocol."""
        return {name: schema_of(*bodies) for name, bodies in self._bodies.items()}

    def _add(self, name: str, form: ErrorForm | None, status: int) -> None:
        description, error = ERRORS[status]
        body = form(str(error), status, error) if form else {"error": str(error)}
        self._bodies.setdefault(name, []).append(body)
        is_of_connection = status in OF_CONNECTIONS
        self.responses[f"{name}_{status}"] = {
            "description": description,
            "headers": {} if is_of_connection else headers(*_HEADERS_OF_ERRORS.get(status, ())),
            "content": {
                JSON: {"schema": {"$ref": f"#/components/schemas/{name}"}, "example": body}
            },
        }
