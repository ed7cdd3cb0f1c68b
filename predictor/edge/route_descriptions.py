"""The routes that make no pictures, for the OpenAPI document: KServe's, the lists and the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from predictor.protocol.accept import JSON
from predictor.protocol.json_schema import Schema, schema_of

_REVISION = "sha256:9b0c8f1e2d"
_LIST_ENTRY = {"id": "sd", "object": "model", "created": 1795900000, "owned_by": "kserve"}


@dataclass(frozen=True)
class RouteDescription:
    """One route: what it does, and the body of its response by media type.

    ``examples`` are JSON bodies, from which the schemas are derived; ``content`` has other bodies.
    ``errors`` are the statuses in addition to those of every route. ``body`` is an optional request
    body. ``has_tag`` marks a response with an ``ETag``.
    """

    summary: str
    examples: tuple[Any, ...] = ()
    content: Mapping[str, Schema] = field(default_factory=dict)
    errors: tuple[int, ...] = ()
    body: Mapping[str, Any] | None = None
    has_tag: bool = False

    def body_content(self) -> dict[str, Any]:
        """The content of the request, no field of which is required."""
        schema = schema_of(self.body) | {"required": []}
        return {JSON: {"schema": schema, "examples": {"all fields": {"value": self.body}}}}

    def contents(self) -> dict[str, Any]:
        """The content of the response."""
        content: dict[str, Any] = {
            name: {"schema": schema} for name, schema in self.content.items()
        }
        if self.examples:
            schema = schema_of(*self.examples)
            content[JSON] = {"schema": schema, "example": self.examples[0]}
        return content


_MODEL_READY = {"name": "sd", "ready": True}
_METADATA = {
    "name": "sd",
    "versions": [_REVISION],
    "platform": "diffusers",
    "inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [-1]}],
    "outputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
    "family": "sd1",
    "tasks": ["text-to-image", "image-to-image", "inpainting"],
    "schedulers": ["unipc", "euler"],
    "adapters": ["pixel-art"],
    "controlnets": ["canny"],
    "has_refiner": False,
    "rescaled_tasks": ["text-to-image"],
    "unused_fields": {},
    "defaults": {"width": 512, "height": 512, "num_inference_steps": 20, "scheduler": "unipc"},
    "limits": {"min_side": 64, "max_side": 2048, "size_multiple": 8},
}
_INDEX = [
    {"name": "sd", "state": "READY", "reason": "", "version": _REVISION},
    {"name": "sdxl", "state": "UNAVAILABLE", "reason": "not loaded; a request loads it"},
]

_PROGRESS = {
    "progress": 0.5,
    "eta_relative": 1.5,
    "state": {"job_count": 1, "sampling_step": 10, "sampling_steps": 20},
    "current_image": None,
}
# Those of A1111, without the common prefix; they are served if ``a1111_api`` is on.
_A1111: Mapping[tuple[str, str], RouteDescription] = {
    ("get", "options"): RouteDescription(
        "The chosen model, for A1111's clients", ({"sd_model_checkpoint": "sd"},)
    ),
    ("post", "options"): RouteDescription(
        "Choose the model of the caller's later requests",
        (None,),
        errors=(400, 403, 404),
        body={"sd_model_checkpoint": None, "samples_format": "png"},
    ),
    ("get", "progress"): RouteDescription("Progress of the caller's requests", (_PROGRESS,)),
    ("post", "interrupt"): RouteDescription("Cancel the caller's requests", ({},), errors=(403,)),
    ("get", "samplers"): RouteDescription(
        "The samplers", ([{"name": "DPM++ 2M", "aliases": ["dpmpp_2m"], "options": {}}],)
    ),
    ("get", "schedulers"): RouteDescription(
        "The noise schedules", ([{"name": "karras", "label": "Karras"}],)
    ),
    ("get", "sd-models"): RouteDescription(
        "The models", ([{"title": "sd", "model_name": "sd", "filename": "sd"}],)
    ),
    ("get", "loras"): RouteDescription(
        "The adapters", ([{"name": "pixel-art", "alias": "pixel-art", "path": "pixel-art"}],)
    ),
    ("get", "upscalers"): RouteDescription("The upscalers: none", ([{"name": "None"}],)),
    ("get", "latent-upscale-modes"): RouteDescription("Always empty", ([],)),
    ("get", "sd-vae"): RouteDescription("Always empty", ([],)),
    ("get", "sd-modules"): RouteDescription("Always empty", ([],)),
}

DESCRIPTIONS: Mapping[tuple[str, str], RouteDescription] = {
    ("get", "/"): RouteDescription("Liveness", ({"status": "alive"},)),
    ("get", "/v2/health/live"): RouteDescription("Liveness", ({"live": True},)),
    ("get", "/v2/health/ready"): RouteDescription("Readiness of the server", ({"ready": True},)),
    ("get", "/metrics"): RouteDescription(
        "Metrics for Prometheus",
        content={
            name: {"type": "string"} for name in ("text/plain", "application/openmetrics-text")
        },
    ),
    ("get", "/v1/models"): RouteDescription(
        "The models, for KServe and OpenAI",
        ({"models": ["sd"], "object": "list", "data": [_LIST_ENTRY]},),
    ),
    ("get", "/openai/v1/models"): RouteDescription(
        "The models, for OpenAI", ({"object": "list", "data": [_LIST_ENTRY]},)
    ),
    ("get", "/openai/v1/models/{model_name}"): RouteDescription(
        "One model, for OpenAI", (_LIST_ENTRY,), errors=(404,)
    ),
    ("get", "/v1/models/{model_name}"): RouteDescription(
        "Readiness of a model", (_MODEL_READY,), errors=(404,)
    ),
    ("get", "/v2"): RouteDescription(
        "The server's name and version",
        ({"name": "kserve", "version": "0.21.0", "extensions": ["model_repository_extension"]},),
    ),
    ("get", "/v2/models"): RouteDescription("The names of the models", ({"models": ["sd"]},)),
    ("get", "/v2/models/{model_name}"): RouteDescription(
        "What a model is and which requests it accepts", (_METADATA,), errors=(404,)
    ),
    ("get", "/v2/models/{model_name}/ready"): RouteDescription(
        "Readiness of a model", (_MODEL_READY,), errors=(404,)
    ),
    ("post", "/v2/repository/index"): RouteDescription(
        "The models and their states", (_INDEX,), errors=(400,), body={"ready": True}
    ),
    ("post", "/v2/repository/models/{model_name}/load"): RouteDescription(
        "Load a model", ({"name": "sd", "load": True},), errors=(404,)
    ),
    ("post", "/v2/repository/models/{model_name}/unload"): RouteDescription(
        "Unload a model", ({"name": "sd", "unload": True},), errors=(404, 501)
    ),
    ("get", "/openapi.json"): RouteDescription("This document", content={JSON: {"type": "object"}}),
    ("get", "/ui"): RouteDescription(
        "The page", content={"text/html": {"type": "string"}}, has_tag=True
    ),
    ("get", "/ui/{file}"): RouteDescription(
        "A file of the page", content={"*/*": {}}, errors=(404,), has_tag=True
    ),
    **{(method, f"/sdapi/v1/{name}"): one for (method, name), one in _A1111.items()},
}
