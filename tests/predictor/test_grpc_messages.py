"""Messages of gRPC: the form of REST that they become, and how long that holds the GIL."""

from __future__ import annotations

import os

import orjson
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from predictor.edge.grpc_messages import read_request, write_response
from predictor.errors import InvalidRequestError
from predictor.protocol import EncodedResponse
from predictor.wire_formats import WIRE_FORMATS
from predictor.wire_formats.tensors import as_element
from tests.predictor.lock_holds import LockHolds
from tests.predictor.rpc import typed

LENGTH = "inference-header-content-length"


def document(request: pb.ModelInferRequest, seconds: float | None = None) -> dict[str, object]:
    """What REST reads from the message."""
    inference = read_request(request.SerializeToString(), seconds)
    return WIRE_FORMATS["tensors"].document(inference.content, inference.headers)


def response(*files: bytes) -> EncodedResponse:
    content = b"".join(map(as_element, files))
    image = {"name": "image", "datatype": "BYTES", "shape": [len(files)]}
    start = orjson.dumps(
        {
            "model_name": "m",
            "model_version": "r",
            "outputs": [image | {"parameters": {"binary_data_size": len(content)}}],
        }
    )
    return EncodedResponse(start + content, {LENGTH: str(len(start))})


@pytest.mark.parametrize(
    ("timeout", "seconds", "expected"),
    [
        (None, None, None),
        (None, 2.5, 2.5),
        (1_000_000, 2.5, 1.0),
        (9_000_000, 2.5, 2.5),
        (1_000_000, None, 1.0),
        (None, 1e9, None),
        (None, -1.0, 1e-6),
    ],
)
def test_the_deadline_bounds_the_timeout(
    timeout: int | None, seconds: float | None, expected: float | None
) -> None:
    request = typed(prompt="a star")
    if timeout is not None:
        request.parameters["timeout"].int64_param = timeout

    parameters = document(request, seconds)["parameters"]

    assert isinstance(parameters, dict)
    assert parameters.get("timeout") == expected


def test_a_parameter_of_an_unknown_type_is_refused() -> None:
    request = typed(prompt="a star")
    request.parameters["guidance_scale"].SetInParent()

    with pytest.raises(InvalidRequestError, match="guidance_scale: must be a boolean"):
        document(request)


def test_typed_and_raw_contents_are_the_same_rows() -> None:
    raw = pb.ModelInferRequest(model_name="m", raw_input_contents=[as_element(b"a star"), b"\x07"])
    raw.inputs.add(name="prompt", datatype="BYTES", shape=[1])
    raw.inputs.add(name="steps", datatype="UINT8", shape=[1])
    plain = pb.ModelInferRequest(model_name="m")
    plain.inputs.add(
        name="prompt", datatype="BYTES", shape=[1], contents={"bytes_contents": [b"a star"]}
    )
    plain.inputs.add(name="steps", datatype="UINT8", shape=[1], contents={"uint_contents": [7]})

    assert document(raw) == document(plain)
    assert document(raw)["instances"] == [{"prompt": "a star", "steps": 7}]


@pytest.mark.parametrize("is_raw", [True, False])
def test_a_large_message_does_not_hold_the_lock(is_raw: bool) -> None:
    file = os.urandom(16 * 2**20)
    request = typed(prompt="a star", image=file)
    if is_raw:
        for tensor in request.inputs:
            tensor.ClearField("contents")
        request.raw_input_contents.extend([as_element(b"a star"), as_element(file)])
    message = request.SerializeToString()
    answer = response(file, file)

    with LockHolds() as holds:
        content = read_request(message, None).content
        written = write_response(answer, is_raw=is_raw)

    assert content.endswith(file)
    found = pb.ModelInferResponse.FromString(written)
    if is_raw:
        assert found.raw_output_contents == [as_element(file) * 2]
    else:
        assert found.outputs[0].contents.bytes_contents == [file, file]
    assert holds.longest < 0.05


@pytest.mark.parametrize(
    "message",
    [
        b"\x2a\x00" * 2**23,
        b"\x32\x00" * 2**23,
        b"\x3a\x00" * 2**23,
        pb.ModelInferRequest(
            model_name="m", inputs=[{"contents": {"fp64_contents": [1.0] * 2**21}}]
        ).SerializeToString(),
        pb.ModelInferRequest(
            model_name="m", inputs=[{"contents": {"bytes_contents": [b""] * 2**20}}]
        ).SerializeToString(),
    ],
    ids=["inputs", "outputs", "raw contents", "numbers", "strings"],
)
def test_a_message_of_millions_of_values_is_refused_at_once(message: bytes) -> None:
    with LockHolds() as holds, pytest.raises(InvalidRequestError, match="more than 2000 values"):
        read_request(message, None)

    assert holds.longest < 0.05
