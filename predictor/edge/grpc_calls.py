"""The RPCs of the Open Inference Protocol, and the routes of the application that answer them.

An RPC passes through the same middleware and handlers as a request to its route, so keys, limits,
errors, metrics and logs are the same.
https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote

import grpc
import orjson
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from starlette.types import ASGIApp

from predictor.edge.grpc_exchange import abort_late, exchange, read_message
from predictor.edge.inference_routes import MODEL_INFER

_Handler = Callable[[AsyncIterator[bytes], Any], Awaitable[bytes]]

_SERVICE = "inference.GRPCInferenceService"
# For a message that only names a model.
_SMALL_BYTES = 65_536


class _Rpc(NamedTuple):
    """An RPC other than ``ModelInfer``, and the route that answers it with JSON.

    ``renamed`` has the fields of the response where the route has other names. ``condition`` is
    the field that is false where the route answers 503.
    """

    name: str
    method: str
    path: Callable[[Any], str]
    condition: str = ""
    renamed: Mapping[str, str] = MappingProxyType({})

    @property
    def request(self) -> Any:
        """The class of the request."""
        return getattr(pb, f"{self.name}Request")

    @property
    def response(self) -> Any:
        """The class of the response."""
        return getattr(pb, f"{self.name}Response")


def _model_path(request: Any) -> str:
    version = f"/versions/{quote(request.version, safe='')}" if request.version else ""
    return f"/v2/models/{quote(request.name, safe='')}{version}"


def _repository_path(request: Any) -> str:
    return f"/v2/repository/models/{quote(request.model_name, safe='')}"


_RPCS = (
    _Rpc("ServerLive", "GET", lambda _: "/v2/health/live", "live"),
    _Rpc("ServerReady", "GET", lambda _: "/v2/health/ready", "ready"),
    _Rpc("ServerMetadata", "GET", lambda _: "/v2"),
    _Rpc("ModelReady", "GET", lambda request: f"{_model_path(request)}/ready", "ready"),
    _Rpc("ModelMetadata", "GET", _model_path),
    _Rpc(
        "RepositoryModelLoad",
        "POST",
        lambda request: f"{_repository_path(request)}/load",
        renamed={"name": "model_name", "load": "isLoaded"},
    ),
    _Rpc(
        "RepositoryModelUnload",
        "POST",
        lambda request: f"{_repository_path(request)}/unload",
        renamed={"name": "model_name", "unload": "isUnloaded"},
    ),
)


class GrpcCalls:
    """The handlers of all RPCs, which call ``app``.

    At most ``max_reads`` messages arrive at the same time, because gRPC holds an incomplete message
    in memory. Handlers get a message as bytes, and only once the middleware asks for it: KServe's
    own servicer would parse it on the event loop before a key is checked.
    """

    def __init__(self, app: ASGIApp, *, max_reads: int) -> None:
        self._app = app
        self._reads = asyncio.Semaphore(max_reads)
        self._in_flight = 0

    @property
    def are_in_flight(self) -> bool:
        """Whether an RPC is still to be answered."""
        return self._in_flight > 0

    @property
    def handlers(self) -> Any:
        """For ``grpc.aio.Server.add_generic_rpc_handlers``."""
        named = {rpc.name: self._named(rpc) for rpc in _RPCS} | {"ModelInfer": self._infer}
        # On the wire, a stream of one message is the same as a message.
        handlers = {
            name: grpc.stream_unary_rpc_method_handler(self._counted(handler))
            for name, handler in named.items()
        }
        return grpc.method_handlers_generic_handler(_SERVICE, handlers)

    def _counted(self, handler: _Handler) -> _Handler:
        async def handle(messages: AsyncIterator[bytes], context: Any) -> bytes:
            with self._flight():
                return await handler(messages, context)

        return handle

    @contextmanager
    def _flight(self) -> Iterator[None]:
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def _infer(self, messages: AsyncIterator[bytes], context: Any) -> bytes:
        async def read() -> bytes | None:
            return await read_message(messages, self._reads)

        answer = await exchange(self._app, context, "POST", MODEL_INFER, read)
        await answer.check(context)
        return await answer.body()

    def _named(self, rpc: _Rpc) -> _Handler:
        async def handle(messages: AsyncIterator[bytes], context: Any) -> bytes:
            request = await self._request(rpc, messages, context)
            answer = await exchange(self._app, context, rpc.method, rpc.path(request))
            if rpc.condition and answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
                return _serialized(rpc.response(**{rpc.condition: False}))
            await answer.check(context)
            document = orjson.loads(await answer.body())
            fields = {rpc.renamed.get(name, name): value for name, value in document.items()}
            return _serialized(ParseDict(fields, rpc.response(), ignore_unknown_fields=True))

        return handle

    async def _request(self, rpc: _Rpc, messages: AsyncIterator[bytes], context: Any) -> Any:
        message = await read_message(messages, self._reads)
        if message is None:
            await abort_late(context)
        if len(message) > _SMALL_BYTES:
            reason = f"the message is longer than {_SMALL_BYTES} bytes"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
        try:
            return rpc.request.FromString(message)
        except DecodeError:
            reason = f"the message is not a valid {rpc.name}Request"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, reason)


def _serialized(message: Any) -> bytes:
    content: bytes = message.SerializeToString()
    return content
