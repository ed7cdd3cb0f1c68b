"""Routes that KServe's server lacks, or that must look at the volume before they answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request

from predictor.edge.repository import RepositoryExtension
from predictor.errors import InvalidRequestError


def repository_routes(extension: RepositoryExtension) -> APIRouter:
    """To be added before KServe's own, of which the first that matches answers."""
    routes = APIRouter()

    @routes.get("/v1/models")
    @routes.get("/v2/models")
    async def list_models() -> dict[str, list[str]]:
        return {"models": [entry["name"] for entry in await extension.index()]}

    @routes.post("/v2/repository/index")
    async def index(request: Request) -> list[dict[str, str]]:
        return await extension.index(filter_ready=_asks_for_ready(await request.body()))

    return routes


def metadata_routes(metadata_of: Callable[[str], Awaitable[dict[str, Any]]]) -> APIRouter:
    """To be added before KServe's own route, which drops every field that the protocol lacks."""
    routes = APIRouter()

    @routes.get("/v2/models/{name}")
    async def model_metadata(name: str) -> dict[str, Any]:
        return await metadata_of(name)

    return routes


def _asks_for_ready(body: bytes) -> bool:
    """The request's one field, where it has a body at all."""
    try:
        document = json.loads(body or "{}")
    except ValueError:
        raise InvalidRequestError("", "the body is no JSON") from None
    ready = document.get("ready", False) if isinstance(document, dict) else None
    if not isinstance(ready, bool):
        raise InvalidRequestError("ready", "is not true or false")
    return ready
