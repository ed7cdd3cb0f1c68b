"""Routes that KServe's server lacks, must check the volume first, or does not describe."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache, partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request

from predictor.edge.repository import RepositoryExtension
from predictor.errors import InvalidRequestError
from predictor.protocol.body import body_schema
from predictor.protocol.json_body import read_json
from predictor.wire_formats import A1111, ROUTED


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

    @routes.get("/v2/models/{name}")
    async def model_metadata(name: str) -> dict[str, Any]:
        return await metadata_of(name)

    return routes


def describe_predict(app: FastAPI) -> None:
    """Put the schemas of bodies into ``/openapi.json``: the handlers read any request."""
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign]  # FastAPI's documented way


@cache
def _openapi(app: FastAPI) -> dict[str, Any]:
    """Built once, which takes 60 ms."""
    document = FastAPI.openapi(app)
    schema, definitions = body_schema("#/components/schemas/")
    document.setdefault("components", {}).setdefault("schemas", {}).update(definitions)
    _add_body(document, "/v1/models/{model_name}:predict", "application/json", schema)
    for wire_format in (*ROUTED, *A1111):
        # Those of A1111 may be off.
        served = [path for path in wire_format.paths if path in document["paths"]]
        if served and (found := wire_format.body_schema("#/components/schemas/")):
            document["components"]["schemas"].update(found.definitions)
            for path in served:
                if wire_format.method == "GET":
                    _add_query(document, path, found.schema)
                else:
                    _add_body(document, path, found.media_type, found.schema)
    return document


def _add_body(document: dict[str, Any], path: str, media_type: str, schema: dict[str, Any]) -> None:
    document["paths"][path]["post"]["requestBody"] = {
        "required": True,
        "content": {media_type: {"schema": schema}},
    }


def _add_query(document: dict[str, Any], path: str, schema: dict[str, Any]) -> None:
    operation = document["paths"][path]["get"]
    operation["parameters"] = operation.get("parameters", []) + [
        {"name": name, "in": "query", "required": name in schema["required"], "schema": field}
        for name, field in schema["properties"].items()
    ]


def _only_ready(body: bytes) -> bool:
    """The only field of the request; False without a body."""
    document = read_json(body or b"{}")
    ready = document.get("ready", False) if isinstance(document, dict) else None
    if not isinstance(ready, bool):
        raise InvalidRequestError("ready", "is neither true nor false")
    return ready
