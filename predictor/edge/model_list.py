"""The list of models, for KServe's clients and OpenAI's."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from modelstore import Marker
from modelstore.errors import ModelStoreError
from predictor.edge.repository import RepositoryExtension
from predictor.errors import UnknownModelError
from predictor.requests.validation import shortened


def model_list_routes(extension: RepositoryExtension) -> APIRouter:
    """Add these before KServe's own routes: the first match answers."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def list_for_both() -> dict[str, Any]:
        return {"models": await _names(extension)} | await _listed(extension)

    @routes.get("/v2/models")
    async def list_names() -> dict[str, list[str]]:
        return {"models": await _names(extension)}

    @routes.get("/openai/v1/models")
    async def list_models() -> dict[str, Any]:
        return await _listed(extension)

    @routes.get("/openai/v1/models/{model_name}")
    async def retrieve_model(model_name: str) -> dict[str, Any]:
        for model in (await _listed(extension))["data"]:
            if model["id"] == model_name:
                found: dict[str, Any] = model
                return found
        raise UnknownModelError("model", f"{shortened(model_name)} is not served")

    return routes


async def _names(extension: RepositoryExtension) -> list[str]:
    return [entry["name"] for entry in await extension.index()]


async def _listed(extension: RepositoryExtension) -> dict[str, Any]:
    """https://platform.openai.com/docs/api-reference/models/list"""
    names = await _names(extension)
    residents = [extension.model_registry.residency[name] for name in names]
    paths = [resident.path for resident in residents]
    created = await asyncio.to_thread(lambda: [_created(path) for path in paths])
    data = [
        {"id": name, "object": "model", "created": seconds, "owned_by": "kserve"}
        for name, seconds in zip(names, created, strict=True)
    ]
    return {"object": "list", "data": data}


def _created(folder: Path) -> int:
    """When the model was published, in seconds since 1970; 0 if it cannot be read now."""
    try:
        return int(datetime.fromisoformat(Marker.read(folder).completed_at).timestamp())
    except (ModelStoreError, OSError, ValueError):
        return 0
