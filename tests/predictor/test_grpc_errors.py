"""Each error over gRPC: the status, the sentence and the metadata, from the table for HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import grpc
import pytest
from kserve.errors import ModelNotFound, ModelNotReady, ServerNotReady
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from starlette.types import ASGIApp, Receive, Scope, Send

from predictor.edge import grpc_exchange
from predictor.edge.draining import Drain, DrainMiddleware
from predictor.edge.error_responses import STATUS, response_to
from predictor.edge.grpc_exchange import CODES
from predictor.edge.grpc_server import GrpcServer
from predictor.edge.middleware import HangUpMiddleware
from predictor.errors import (
    BodyTooLargeError,
    DeadlineExceededError,
    GenerationFailedError,
    InvalidRequestError,
    ModelLoadError,
    NotAuthenticatedError,
    NotAuthorizedError,
    OverloadedError,
    RateLimitedError,
    RefusedBySafetyError,
    ShuttingDownError,
)
from tests.predictor.rpc import run


class Port(NamedTuple):
    """A server, and a client of it."""

    stub: Any
    channel: grpc.aio.Channel
    server: GrpcServer
    number: int


def served(app: ASGIApp, call: Callable[[Port], Awaitable[Any]]) -> Any:
    """What ``call`` returns for a server of ``app``."""

    async def answer() -> Any:
        server = GrpcServer(app, max_bytes=2**20)
        port = server.bind("127.0.0.1", 0)
        await server.start()
        try:
            async with (
                asyncio.timeout(60),
                grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
            ):
                return await call(Port(GRPCInferenceServiceStub(channel), channel, server, port))
        finally:
            await server.stop(0)

    return run(answer())


async def error_of(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value


def raising(error: Exception) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await response_to(error)(scope, receive, send)

    return app


def test_every_http_status_of_an_error_has_a_code() -> None:
    assert set(STATUS.values()) == CODES.keys()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequestError("width", "63 is odd"), "INVALID_ARGUMENT"),
        (RefusedBySafetyError("the picture is blocked"), "INVALID_ARGUMENT"),
        (NotAuthenticatedError("the key is not valid"), "UNAUTHENTICATED"),
        (NotAuthorizedError("this route requires the key of an admin"), "PERMISSION_DENIED"),
        (ModelNotFound("other"), "NOT_FOUND"),
        (BodyTooLargeError("the request body is longer than 5 bytes"), "RESOURCE_EXHAUSTED"),
        (OverloadedError("the queue is full", 7), "RESOURCE_EXHAUSTED"),
        (RateLimitedError("the limit is reached", 9), "RESOURCE_EXHAUSTED"),
        (GenerationFailedError("the engine failed: é"), "INTERNAL"),
        (NotImplementedError("not supported"), "UNIMPLEMENTED"),
        (ModelNotReady("other"), "UNAVAILABLE"),
        (ShuttingDownError("the server shuts down"), "UNAVAILABLE"),
        (DeadlineExceededError("not done within 3 s"), "DEADLINE_EXCEEDED"),
    ],
)
def test_an_error_has_its_code_and_the_sentence_of_http(error: Exception, code: str) -> None:
    async def call(port: Port) -> grpc.aio.AioRpcError:
        return await error_of(port.stub.ModelInfer(pb.ModelInferRequest(), timeout=30))

    found = served(raising(error), call)

    assert found.code().name == code
    assert found.details() == str(error)
    seconds = getattr(error, "retry_after_seconds", 5)
    metadata = dict(found.trailing_metadata())
    is_temporary = code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
    if is_temporary and not isinstance(error, BodyTooLargeError):
        assert metadata["retry-after"] == f"{seconds:g}"
    else:
        assert "retry-after" not in metadata
    assert ("www-authenticate" in metadata) == (code == "UNAUTHENTICATED")


def test_a_server_that_is_not_ready_says_so_without_an_error() -> None:
    async def call(port: Port) -> Any:
        live = await port.stub.ServerLive(pb.ServerLiveRequest())
        ready = await port.stub.ServerReady(pb.ServerReadyRequest())
        return (
            live.live,
            ready.ready,
            (await port.stub.ModelReady(pb.ModelReadyRequest(name="x"))).ready,
        )

    assert served(raising(ServerNotReady()), call) == (False, False, False)


def test_an_unexpected_error_hides_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await response_to(GenerationFailedError("its log has the cause"))(scope, receive, send)
        raise ValueError("secret")

    async def call(port: Port) -> grpc.aio.AioRpcError:
        return await error_of(port.stub.ModelInfer(pb.ModelInferRequest()))

    found = served(app, call)

    assert (found.code(), found.details()) == (grpc.StatusCode.INTERNAL, "its log has the cause")
    assert "secret" in caplog.text


def test_only_known_metadata_becomes_headers_and_the_message_is_read_on_demand() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await response_to(NotAuthenticatedError("no"))(scope, receive, send)

    async def messages() -> Any:
        # A caller that never sends its message.
        await asyncio.get_running_loop().create_future()
        yield b""

    async def call(port: Port) -> grpc.aio.AioRpcError:
        infer = port.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        metadata = [
            ("authorization", "Bearer key"),
            ("x-forwarded-for", "198.51.100.1"),
            ("content-length", "many"),
            ("content-encoding", "gzip"),
            ("accept", "text/event-stream"),
            ("data-bin", b"\xff"),
        ]
        return await error_of(infer(messages(), metadata=metadata, timeout=30))

    found = served(app, call)

    assert found.code() is grpc.StatusCode.UNAUTHENTICATED
    headers = dict(seen[0]["headers"])
    assert headers.keys() == {b"authorization", b"x-forwarded-for", b"user-agent"}
    assert headers[b"authorization"] == b"Bearer key"
    assert seen[0]["client"][0] == "127.0.0.1"
    # gRPC rounds the deadline that it sends.
    assert 0 < seen[0]["extensions"]["grpc.deadline"] < 60


def test_a_message_that_does_not_arrive_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_exchange, "_READ_SECONDS", 0.05)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "http.disconnect"}

    async def messages() -> Any:
        await asyncio.get_running_loop().create_future()
        yield b""

    async def call(port: Port) -> Any:
        infer = port.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        ready = port.channel.stream_unary("/inference.GRPCInferenceService/ModelReady")
        return await error_of(infer(messages())), await error_of(ready(messages()))

    for found in served(app, call):
        assert found.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert found.details() == "no message arrived within 0.05 s"


def test_only_one_stop_has_a_grace_period_that_can_end() -> None:
    """gRPC frees the server at the end of one ``stop``, and crashes if another still uses it."""
    has_begun, graces = asyncio.Event(), list[float | None]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        has_begun.set()
        await asyncio.get_running_loop().create_future()

    async def call(port: Port) -> None:
        stop = port.server._aio_server.stop

        async def noted_stop(grace: float | None) -> None:
            graces.append(grace)
            await stop(grace)

        port.server._aio_server.stop = noted_stop
        first = asyncio.ensure_future(error_of(port.stub.ModelInfer(pb.ModelInferRequest())))
        await has_begun.wait()
        await port.server.stop(0)
        await first

    served(app, call)

    assert (graces[0] or 0) > 1e6
    assert graces[1:] == [None]


def test_a_stop_finishes_the_calls_in_flight_and_refuses_others() -> None:
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        has_begun.set()
        await may_end.wait()
        await response_to(InvalidRequestError("", "done"))(scope, receive, send)

    async def call(port: Port) -> Any:
        first = asyncio.ensure_future(error_of(port.stub.ModelInfer(pb.ModelInferRequest())))
        await has_begun.wait()
        was_busy = port.server.is_busy
        port.server.close_port()
        second = await error_of(port.stub.ModelInfer(pb.ModelInferRequest()))
        may_end.set()
        done = await first
        await port.server.stop(30)
        return was_busy, second.code(), done.details(), port.server.is_busy

    was_busy, second, done, is_busy = served(app, call)

    # gRPC cancels a call that it gets before its client knows of the stop.
    assert second in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert (was_busy, done, is_busy) == (True, "done", False)


def test_a_call_that_is_cut_is_unavailable() -> None:
    has_begun, drain = asyncio.Event(), Drain()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        has_begun.set()
        await asyncio.get_running_loop().create_future()

    async def call(port: Port) -> Any:
        first = asyncio.ensure_future(error_of(port.stub.ModelInfer(pb.ModelInferRequest())))
        await has_begun.wait()
        drain.cut()
        return await first

    found = served(DrainMiddleware(HangUpMiddleware(app), drain), call)

    assert found.code() is grpc.StatusCode.UNAVAILABLE
    assert found.details() == "the server shuts down before the request is done; send it again"


def test_a_caller_that_leaves_cancels_its_handler() -> None:
    has_begun, is_cancelled = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        has_begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            is_cancelled.set()

    async def call(port: Port) -> None:
        pending = port.stub.ModelInfer(pb.ModelInferRequest())
        await has_begun.wait()
        pending.cancel()
        await is_cancelled.wait()

    served(app, call)


def test_a_port_that_is_in_use_is_explained() -> None:
    async def call(port: Port) -> str:
        with pytest.raises(ModelLoadError) as refused:
            GrpcServer(app, max_bytes=1).bind("127.0.0.1", port.number)
        return str(refused.value)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    assert "grpc_port: the server cannot listen on 127.0.0.1:" in served(app, call)
