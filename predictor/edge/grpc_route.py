"""The route of gRPC ``ModelInfer``: an RPC is a request to the application, as any other."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, HTTPException, Request, Response

from predictor.edge.data_plane import DiffusionDataPlane
from predictor.edge.grpc_messages import read_request, write_response
from predictor.edge.inference_routes import MODEL_INFER
from predictor.protocol import EncodedResponse
from predictor.request_context import current_request
from predictor.wire_formats import WIRE_FORMATS, Message

# In the extensions of the scope of an RPC: the time until its deadline, in seconds, or None.
DEADLINE = "grpc.deadline"
_TENSORS = WIRE_FORMATS["tensors"]


def model_infer_route(data_plane: DiffusionDataPlane) -> APIRouter:
    """Add this before KServe's own routes."""
    routes = APIRouter()

    @routes.post(MODEL_INFER, include_in_schema=False)
    async def model_infer(request: Request) -> Response:
        extensions = request.scope.get("extensions", {})
        if DEADLINE not in extensions:
            # A request to the HTTP port.
            raise HTTPException(404)
        # A large message is copied, which takes too long for the event loop.
        inference = await asyncio.to_thread(
            read_request, await _message(request), extensions[DEADLINE]
        )
        current_request().model = inference.model_name
        response = await data_plane.answer(
            inference.model_name, Message(_TENSORS, inference.content, inference.headers)
        )
        assert isinstance(response, EncodedResponse)
        body = await asyncio.to_thread(write_response, response, is_raw=inference.is_raw)
        return Response(body, headers=response.headers | {"content-type": "application/grpc"})

    return routes


async def _message(request: Request) -> bytes:
    """The message, in one piece; ``Request.body`` would keep it until the response."""
    message = b""
    async for piece in request.stream():
        message = piece or message
    return message
