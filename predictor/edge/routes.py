"""Routes that KServe's server lacks, or that must check the volume first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request

from predictor.edge.repository import RepositoryExtension
from predictor.errors import InvalidRequestError
from predictor.protocol.json_body import read_json


def repository_routes(extension: RepositoryExtension) -> APIRouter:
    """Add these before KServe's own routes: the first match answers."""
    routes = APIRouter()

    @routes.post("/v2/repository/index")
    async def index(request: Request) -> list[dict[str, str]]:
        return await extension.index(filter_ready=_only_ready(await request.body()))

    return routes


def metadata_routes(metadata_of: Callable[[str], Awaitable[dict[str, Any]]]) -> APIRouter:
    """Add this before KServe's own route, which drops fields that the protocol does not define."""
    routes = APIRouter()

    @routes.get("/v2/models/{model_name}")
    async def model_metadata(model_name: str) -> dict[str, Any]:
        return await metadata_of(model_name)

    return routes


def _only_ready(body: bytes) -> bool:
    """The only field of the request; False without a body."""
    document = read_json(body or b"{}")
    ready = document.get("ready", False) if isinstance(document, dict) else None
    if not isinstance(ready, bool):
        raise InvalidRequestError("ready", "is neither true nor false")
    return ready
