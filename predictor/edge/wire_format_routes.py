"""The routes of the wire formats: a request to the model that it names, and the response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from predictor.access.spending import keep_request
from predictor.edge.data_plane import DiffusionDataPlane
from predictor.edge.deadline import READING, within
from predictor.edge.router_errors import IS_HEAD
from predictor.errors import InvalidRequestError, UnknownModelError
from predictor.intake.pool import READERS
from predictor.protocol import EncodedResponse
from predictor.request_context import current_request
from predictor.requests.validation import shortened
from predictor.settings import Settings
from predictor.wire_formats import ROUTED, Message, WireFormat


def wire_format_routes(
    data_plane: DiffusionDataPlane, settings: Settings, model_name: str
) -> APIRouter:
    """Add these before KServe's own routes: the first match answers.

    ``model_name`` is the name of a single model, for the time in which it is not published yet.
    """
    routes = APIRouter()
    models = ModelNames(data_plane, settings, model_name)
    for wire_format in ROUTED:
        for path in wire_format.paths:
            routes.add_api_route(
                path,
                _handler(wire_format, data_plane, models),
                methods=[wire_format.method],
                response_model=None,
            )
    return routes


def _handler(
    wire_format: WireFormat, data_plane: DiffusionDataPlane, models: ModelNames
) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        is_get = wire_format.method == "GET"
        # The body of a GET request too: ``HangUpMiddleware`` watches the connection from its end.
        body = await request.body()
        content = request.scope["query_string"] if is_get else body
        is_head = request.scope.get(IS_HEAD, False)
        arrived = asyncio.get_running_loop().time()
        message = Message(wire_format, content, dict(request.headers.items()), is_head, arrived)
        name = request.path_params.get("model_name") or await models.of(message)
        current_request().model = name
        response = await data_plane.answer(name, message)
        if isinstance(response, AsyncIterator):
            return StreamingResponse(response)
        assert isinstance(response, EncodedResponse)
        answer = Response(response.body, response.status, response.headers)
        if is_head:
            # That of the picture is not known.
            del answer.headers["content-length"]
        return answer

    return handle


class ModelNames:
    """Finds the model that a body names."""

    def __init__(self, data_plane: DiffusionDataPlane, settings: Settings, model_name: str) -> None:
        self._data_plane = data_plane
        self._settings = settings
        self._model_name = model_name

    async def of(self, message: Message, chosen: str = "", field: str = "model") -> str:
        """The name in the field ``model``, else the ``chosen`` one, else the only model.

        Errors name the ``field`` that the protocol has for it.

        Raises:
            UnknownModelError: no such model is served.
            InvalidRequestError: the field is missing although there are several models.
        """
        name = (await self._document(message)).get("model")
        if name is not None and not isinstance(name, str):
            raise InvalidRequestError(field, f"must be a string, not {shortened(name)}")
        return await self.checked(name or chosen, field)

    async def checked(self, name: str, field: str) -> str:
        """The name if it is served, or the only model for an empty name; see ``of``."""
        registry = self._data_plane.model_registry
        await registry.look_for(name or self._model_name)
        names = sorted(registry.get_models())
        if not name and len(names) != 1:
            raise InvalidRequestError(field, f"is missing; the server has {', '.join(names)}")
        if name and name not in names:
            raise UnknownModelError(
                field, f"{shortened(name)} is not served; the server has {', '.join(names)}"
            )
        return name or names[0]

    async def _document(self, message: Message) -> dict[str, Any]:
        """The fields of a request; those of a large body are read in another process."""
        if message.is_small:
            return message.document()
        async with within(message.arrived, self._settings.request_timeout_seconds or None, READING):
            content = await READERS.read(
                message, lambda document, images: document, self._settings.max_image_pixels
            )
        document: dict[str, Any] = orjson.loads(content)
        keep_request()
        return document
