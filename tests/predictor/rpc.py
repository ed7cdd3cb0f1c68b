"""Requests over gRPC, and what an RPC that fails says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from tests.serving import MODEL_NAME

# gRPC has one poller for the process. With a loop for each test, its server crashes now and then.
_RUNNER = asyncio.Runner()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that uses ``grpc.aio``, on one event loop for all of them."""
    return _RUNNER.run(coroutine)


def typed(**columns: Any) -> pb.ModelInferRequest:
    """A request with one row, whose inputs have typed contents."""
    request = pb.ModelInferRequest(model_name=MODEL_NAME)
    for name, value in columns.items():
        kinds = {str: ("BYTES", "bytes"), bytes: ("BYTES", "bytes"), float: ("FP64", "fp64")}
        datatype, field = kinds.get(type(value), ("INT64", "int64"))
        one = request.inputs.add(name=name, datatype=datatype, shape=[1])
        data = value.encode() if isinstance(value, str) else value
        getattr(one.contents, f"{field}_contents").append(data)
    return request


def refusal(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """The status of an RPC that fails, its sentence and its trailing metadata."""
    with pytest.raises(grpc.RpcError) as refused:
        call()
    error: Any = refused.value
    return error.code(), error.details(), dict(error.trailing_metadata())
