"""The routes of A1111's web UI API under ``/sdapi/v1``.

https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/master/modules/api/api.py
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi import APIRouter, Request, Response

from predictor.edge.a1111_callers import A1111Call, Callers
from predictor.edge.data_plane import DiffusionDataPlane
from predictor.edge.repository import RepositoryExtension
from predictor.edge.wire_format_routes import ModelNames
from predictor.errors import InvalidRequestError
from predictor.protocol import EncodedResponse
from predictor.protocol.json_body import read_json
from predictor.request_context import current_request
from predictor.requests import ModelProfile
from predictor.requests.sampler_names import EQUIVALENTS
from predictor.requests.validation import shortened
from predictor.settings import Settings
from predictor.wire_formats import A1111, Message, WireFormat
from predictor.wire_formats.a1111_samplers import sampler_items, schedule_items

_CHECKPOINT = "sd_model_checkpoint"
# The other options that clients read; the server has one value for each.
_FIXED_OPTIONS = {"sd_vae": "Automatic", "CLIP_stop_at_last_layers": 1, "samples_format": "png"}


def a1111_routes(
    data_plane: DiffusionDataPlane,
    extension: RepositoryExtension,
    settings: Settings,
    model_name: str,
) -> APIRouter:
    """Add these if ``a1111_api`` is on. See ``wire_format_routes`` for ``model_name``."""
    routes = APIRouter(prefix="/sdapi/v1")
    models = ModelNames(data_plane, settings, model_name)
    callers = Callers(settings.trusted_proxies)
    for wire_format in A1111:
        for path in wire_format.paths:
            routes.add_api_route(
                path.removeprefix(routes.prefix),
                _handler(wire_format, data_plane, models, callers),
                methods=[wire_format.method],
                response_model=None,
            )
    _add_options(routes, extension, models, callers)
    _add_calls(routes, callers)
    _add_model_lists(routes, extension, callers)
    _add_empty_lists(routes)
    return routes


def _handler(
    wire_format: WireFormat, data_plane: DiffusionDataPlane, models: ModelNames, callers: Callers
) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        message = Message(wire_format, await request.body(), dict(request.headers.items()))
        caller = callers.name_of(request)
        name = await models.of(message, callers.chosen(caller), _CHECKPOINT)
        current_request().model = name
        with callers.call(caller) as call:
            response = await call.run(data_plane.answer(name, message))
        assert isinstance(response, EncodedResponse)
        return Response(response.body, response.status, response.headers)

    return handle


def _add_options(
    routes: APIRouter, extension: RepositoryExtension, models: ModelNames, callers: Callers
) -> None:
    @routes.get("/options")
    async def get_options(request: Request) -> dict[str, Any]:
        """The model is null if there are several and the caller has chosen none."""
        name = _model_of(callers.name_of(request), callers, await _names(extension))
        return {_CHECKPOINT: name or None} | _FIXED_OPTIONS

    @routes.post("/options")
    async def set_options(request: Request) -> None:
        name = _chosen_model(read_json(await request.body()))
        if name is None:
            return
        await models.checked(name, _CHECKPOINT)
        # The only model needs no choice, so it also works for a caller that a proxy hides.
        if len(await _names(extension)) > 1:
            callers.choose(callers.name_of(request), name)


def _add_calls(routes: APIRouter, callers: Callers) -> None:
    @routes.get("/progress")
    async def progress(request: Request) -> dict[str, Any]:
        return _progress(callers.calls(callers.name_of(request)))

    @routes.post("/interrupt")
    async def interrupt(request: Request) -> dict[str, Any]:
        callers.interrupt(callers.name_of(request))
        return {}


def _add_model_lists(routes: APIRouter, extension: RepositoryExtension, callers: Callers) -> None:
    @routes.get("/sd-models")
    async def list_models() -> list[dict[str, Any]]:
        rest = {"hash": None, "sha256": None, "config": None}
        return [
            {"title": name, "model_name": name, "filename": name} | rest
            for name in await _names(extension)
        ]

    @routes.get("/samplers")
    async def list_samplers(request: Request) -> list[dict[str, Any]]:
        profiles = await _profiles(callers.name_of(request), callers, extension)
        known = _all(one.schedulers for one in profiles)
        return sampler_items(known or EQUIVALENTS.values())

    @routes.get("/schedulers")
    async def list_schedules() -> list[dict[str, Any]]:
        return schedule_items()

    @routes.get("/loras")
    async def list_adapters(request: Request) -> list[dict[str, Any]]:
        profiles = await _profiles(callers.name_of(request), callers, extension)
        return [
            {"name": name, "alias": name, "path": name, "metadata": {}}
            for name in _all(one.adapters for one in profiles)
        ]


def _add_empty_lists(routes: APIRouter) -> None:
    """What a server without upscalers and VAEs of its own answers."""

    @routes.get("/upscalers")
    async def list_upscalers() -> list[dict[str, Any]]:
        return [
            {"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 4}
        ]

    @routes.get("/latent-upscale-modes")
    async def list_upscale_modes() -> list[dict[str, Any]]:
        return []

    @routes.get("/sd-vae")
    async def list_vaes() -> list[dict[str, Any]]:
        return []

    @routes.get("/sd-modules")
    async def list_modules() -> list[dict[str, Any]]:
        return []


async def _names(extension: RepositoryExtension) -> list[str]:
    return [entry["name"] for entry in await extension.index()]


def _model_of(caller: str, callers: Callers, names: list[str]) -> str:
    """The model of calls that name none; "" if they have to name one."""
    if len(names) == 1:
        return names[0]
    chosen = callers.chosen(caller)
    return chosen if chosen in names else ""


async def _profiles(
    caller: str, callers: Callers, extension: RepositoryExtension
) -> list[ModelProfile]:
    """That of the caller's model, or those of all models; only if they are loaded."""
    names = await _names(extension)
    name = _model_of(caller, callers, names)
    residents = [extension.model_registry.residency[one] for one in ([name] if name else names)]
    return [one.loaded.profile for one in residents if one.loaded is not None]


def _all(lists: Iterable[Iterable[str]]) -> list[str]:
    return [*dict.fromkeys(name for names in lists for name in names)]


def _chosen_model(options: Any) -> str | None:
    """The model in the body of ``POST options``; clients send the other options back as they are.

    Raises:
        InvalidRequestError: an option would change something else.
    """
    if not isinstance(options, dict):
        raise InvalidRequestError("", "the body must be a JSON object")
    for name, value in options.items():
        if name != _CHECKPOINT and value is not None and value != _FIXED_OPTIONS.get(name):
            raise InvalidRequestError(
                shortened(name)[1:-1],
                "cannot be set for later calls; send it in `override_settings` of each call",
            )
    model = options.get(_CHECKPOINT)
    if not isinstance(model, str | None):
        raise InvalidRequestError(_CHECKPOINT, f"must be a string, not {shortened(model)}")
    return model


def _progress(calls: list[A1111Call]) -> dict[str, Any]:
    """The newest call; all of its pictures advance together, so it is one job."""
    step, steps = calls[-1].steps if calls else (0, 0)
    done = step / steps if steps else 0.0
    return {
        "progress": done,
        "eta_relative": calls[-1].seconds * (1 - done) / done if done else 0.0,
        "state": {
            "skipped": False,
            "interrupted": False,
            "stopping_generation": False,
            "job": "",
            "job_count": len(calls),
            "job_no": 0,
            "job_timestamp": "0",
            "sampling_step": step,
            "sampling_steps": steps,
        },
        "current_image": None,
        "textinfo": None,
    }
