"""Requests that no route handles: unknown paths, other methods, and bodies of another schema."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from predictor.request_context import current_request

# In the scope of a request that was HEAD.
IS_HEAD = "is_head"
# Without this check, KServe's route for ``/v1/models/{model_name}`` takes the verb for a part of
# the name, which never contains a colon.
_VERB = re.compile(r"/v1/models/[^/:]*:(?:predict|explain)")
_OTHER_VERB = re.compile(r"/v1/models/[^/]*:[^/]*")
_PARAMETER = re.compile(r"{\w+}")
_METHODS = ("get", "post", "put", "patch", "delete")


class MethodMiddleware:
    """Answer HEAD as GET without the body, and verbs of KServe's v1 protocol only for POST."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Uvicorn keeps the original scope and omits the body of a response to HEAD."""
        app = self._app if scope["type"] != "http" else self._refusal(scope) or self._app
        if scope.get("method") == "HEAD":
            scope = {**scope, "method": "GET", IS_HEAD: True}
        await app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        if _VERB.fullmatch(scope["path"]):
            return _not_allowed(scope, "POST") if scope["method"] != "POST" else None
        return _not_found(scope) if _OTHER_VERB.fullmatch(scope["path"]) else None


def body_of_error(reason: str, status: int, error: BaseException | None = None) -> dict[str, Any]:
    """The body of an error response, in the form of the protocol."""
    form = current_request().error_form
    return form(reason, status, error) if form else {"error": reason}


def register_router_errors(app: FastAPI) -> None:
    """Give these errors the form of all others."""
    app.add_exception_handler(HTTPException, _respond)
    app.add_exception_handler(RequestValidationError, _respond_invalid)


async def _respond(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        return _not_found(request.scope)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        first = (error.headers or {}).get("Allow", "")
        return _not_allowed(request.scope, _allowed_methods(request.scope, first))
    body = body_of_error(error.detail, error.status_code)
    return JSONResponse(body, error.status_code, headers=error.headers)


async def _respond_invalid(_: Request, __: Exception) -> JSONResponse:
    reason = "the body does not match the schema of this route, which is in /openapi.json"
    return JSONResponse(body_of_error(reason, HTTPStatus.BAD_REQUEST), HTTPStatus.BAD_REQUEST)


def _allowed_methods(scope: Scope, first: str) -> str:
    """The methods of all routes with the path; the router names those of the ``first`` one only."""
    methods = {*first.split(", ")}
    for path, operations in scope["app"].openapi()["paths"].items():
        if re.fullmatch(_PARAMETER.sub("[^/:]+", path), scope["path"]):
            methods |= {method.upper() for method in operations}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def _not_allowed(scope: Scope, allowed: str) -> JSONResponse:
    reason = f"{scope['path']} does not support {scope['method']}; use {allowed}"
    status = HTTPStatus.METHOD_NOT_ALLOWED
    return JSONResponse(body_of_error(reason, status), status, headers={"allow": allowed})


def _not_found(scope: Scope) -> JSONResponse:
    routes = ", ".join(_routes(scope["app"]))
    reason = f"{scope['path']} does not exist; the server has {routes}"
    return JSONResponse(body_of_error(reason, HTTPStatus.NOT_FOUND), HTTPStatus.NOT_FOUND)


def _routes(app: FastAPI) -> list[str]:
    """Every route that works, as ``POST /v1/models/{model_name}:predict``."""
    paths = app.openapi()["paths"]
    return [
        f"{method.upper()} {path}"
        for path in sorted(paths)
        for method in _METHODS
        if method in paths[path]
    ]
