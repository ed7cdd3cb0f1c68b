"""ASGI middleware: every route but the probes and the metrics requires a key, if there are keys."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from jobs.api.error_responses import response_to
from jobs.api_keys import ApiKeys
from jobs.errors import NotAuthenticatedError

# What the kubelet, Prometheus and KEDA call; they send no key.
OPEN_PATHS = frozenset({"/metrics", "/v2/health/live", "/v2/health/ready"})
_OWNER = "jobs.owner"


class AccessMiddleware:
    """Notes whose request it is, or rejects it before its body is read."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or answer 401."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                scope[_OWNER] = self._owner(Headers(scope=scope))
            except NotAuthenticatedError as error:
                return await response_to(error)(scope, receive, send)
        return await self._app(scope, receive, send)

    def _owner(self, headers: Headers) -> str:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise NotAuthenticatedError("a key is required: send `Authorization: Bearer <key>`")
        name = self._keys.name_of(token.strip())
        if name is None:
            raise NotAuthenticatedError("the key is not valid")
        return name


def owner_of(request: Request) -> str:
    """The name of the request's key, or an empty string if the server has no keys."""
    return str(request.scope.get(_OWNER, ""))
