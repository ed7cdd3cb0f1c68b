"""The Open Inference Protocol over gRPC, with KServe's client, Triton's messages and grpcio."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict
from kserve import InferenceGRPCClient, InferInput, InferRequest, InferResponse
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from demo.judge import look_at
from demo.shapes import Scene
from tests.predictor.metric_samples import metric, wait_for_metric
from tests.predictor.rpc import refusal, run, typed
from tests.predictor.test_tensor_inference import (
    CIRCLE,
    PICTURE,
    STAR,
    file_of,
    opened,
    tensor,
)
from tests.serving import MODEL_NAME, Server
from tests.waiting import wait_until

ROUTE = f"/v2/models/{MODEL_NAME}/infer"


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened_channel:
        yield opened_channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return GRPCInferenceServiceStub(channel)


def ask_kserve(server: Server, request: InferRequest) -> InferResponse:
    async def infer() -> Any:
        async with InferenceGRPCClient(f"127.0.0.1:{server.grpc_port}") as client:
            return await client.infer(request)

    return run(infer())


def test_kserves_client_gets_the_pixels_of_rest(server: Server, client: httpx.Client) -> None:
    inputs = [
        InferInput("prompt", [1], "BYTES", [CIRCLE.prompt]),
        InferInput("seed", [1], "INT64", [7]),
        InferInput("guidance_scale", [1], "FP64", [2.5]),
    ]
    columns = [
        tensor("prompt", "BYTES", CIRCLE.prompt),
        tensor("seed", "INT64", 7),
        tensor("guidance_scale", "FP64", 2.5),
    ]

    answer = ask_kserve(server, InferRequest(MODEL_NAME, inputs, request_id="mine"))

    image, seed = answer.outputs
    rest = client.post(ROUTE, json={"inputs": columns, "parameters": {"binary_data_output": True}})
    length = int(rest.headers["inference-header-content-length"])
    expected = json.loads(rest.content[:length])
    size = expected["outputs"][0]["parameters"]["binary_data_size"]
    picture = opened(image.data[0])
    assert (answer.id, answer.model_name) == ("mine", MODEL_NAME)
    assert answer.model_version == expected["model_version"]
    assert (image.name, image.datatype, image.shape) == ("image", "BYTES", [1])
    assert (seed.name, seed.datatype, seed.data) == ("seed", "INT64", [7])
    assert look_at(picture).shows(CIRCLE)
    other = opened(rest.content[length + 4 : length + size])
    assert np.abs(np.asarray(picture, int) - np.asarray(other, int)).max() <= 2


def test_each_row_is_a_picture_in_raw_contents(server: Server) -> None:
    scenes = [CIRCLE, Scene("white", "star", "purple")]
    prompt = InferInput("prompt", [2], "BYTES")
    prompt.set_data_from_numpy(np.array([one.prompt for one in scenes], dtype=np.object_))
    seed = InferInput("seed", [2], "INT64")
    seed.set_data_from_numpy(np.array([7, 2**53 - 1]))
    # One element holds for all rows.
    scale = InferInput("guidance_scale", [1], "FP64")
    scale.set_data_from_numpy(np.array([2.0]))
    request = InferRequest(MODEL_NAME, [prompt, seed, scale])
    assert request.to_grpc().raw_input_contents

    answer = ask_kserve(server, request)

    image, seeds = answer.outputs
    assert seeds.as_numpy().tolist() == [7, 2**53 - 1]
    for content, scene in zip(image.as_numpy(), scenes, strict=True):
        assert look_at(opened(content)).shows(scene)


# In a process of its own: Triton's messages have the same names as KServe's.
TRITON = """
import sys
import numpy as np
from tritonclient import grpc

address, prompt = sys.argv[1:]
with grpc.InferenceServerClient(address) as client:
    assert client.is_server_live() and client.is_model_ready("stable-diffusion")
    names = [one.name for one in client.get_model_metadata("stable-diffusion").inputs]
    assert "prompt" in names
    text = grpc.InferInput("prompt", [1], "BYTES")
    text.set_data_from_numpy(np.array([prompt], dtype=np.object_))
    seed = grpc.InferInput("seed", [1], "INT64")
    seed.set_data_from_numpy(np.array([7]))
    answer = client.infer("stable-diffusion", [text, seed], parameters={"guidance_scale": "2.5"})
    assert answer.as_numpy("seed").tolist() == [7]
    sys.stdout.buffer.write(answer.as_numpy("image")[0])
"""


def test_tritons_client_gets_a_picture(server: Server) -> None:
    address = f"127.0.0.1:{server.grpc_port}"
    command = [sys.executable, "-c", TRITON, address, CIRCLE.prompt]

    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=120)

    assert look_at(opened(done.stdout)).shows(CIRCLE)


def test_a_picture_is_sent_as_a_file(stub: Any) -> None:
    request = typed(prompt=STAR.prompt, image=file_of(PICTURE), seed=2, strength=0.9)
    request.outputs.add(name="image")

    response = stub.ModelInfer(request)

    (image,) = response.outputs
    (content,) = image.contents.bytes_contents
    assert look_at(opened(content)).shows(STAR)
    assert list(response.raw_output_contents) == []


def test_parameters_and_metadata_are_those_of_rest(stub: Any) -> None:
    request = typed(prompt="a star", seed=5)
    request.parameters["num_inference_steps"].int64_param = 1
    request.parameters["size"].string_param = "96x64"
    request.parameters["guidance_scale"].string_param = "2.5"

    response, call = stub.ModelInfer.with_call(request, metadata=[("x-request-id", "from-grpc")])

    metadata = dict(call.trailing_metadata())
    assert opened(response.outputs[0].contents.bytes_contents[0]).size == (96, 64)
    assert metadata["x-request-id"] == "from-grpc"
    assert metadata["x-seed"] == "5"
    assert metadata["x-model-revision"] == response.model_version


def test_the_metadata_is_that_of_rest(stub: Any, client: httpx.Client) -> None:
    model = stub.ModelMetadata(pb.ModelMetadataRequest(name=MODEL_NAME))
    server = stub.ServerMetadata(pb.ServerMetadataRequest())

    document = client.get(f"/v2/models/{MODEL_NAME}").json()
    fields = MessageToDict(model, preserving_proto_field_name=True)
    assert fields.keys() == {"name", "versions", "platform", "inputs", "outputs"}
    for name in ("name", "versions", "platform"):
        assert fields[name] == document[name]
    for name in ("inputs", "outputs"):
        announced = [(one["name"], one["datatype"], one["shape"]) for one in document[name]]
        assert [(one.name, one.datatype, [*one.shape]) for one in getattr(model, name)] == announced
    assert MessageToDict(server) == client.get("/v2").json()


def test_probes(stub: Any) -> None:
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    assert stub.ModelReady(pb.ModelReadyRequest(name=MODEL_NAME)).ready
    code, details, _ = refusal(lambda: stub.ModelReady(pb.ModelReadyRequest(name="x/ready")))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "does not exist" in details


def test_the_repository_answers_as_rest(stub: Any, client: httpx.Client) -> None:
    loaded = stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=MODEL_NAME))
    request = pb.RepositoryModelUnloadRequest(model_name=MODEL_NAME)
    code, details, _ = refusal(lambda: stub.RepositoryModelUnload(request))

    rest = client.post(f"/v2/repository/models/{MODEL_NAME}/unload")
    assert (loaded.model_name, loaded.isLoaded) == (MODEL_NAME, True)
    assert (rest.status_code, code) == (501, grpc.StatusCode.UNIMPLEMENTED)
    assert details == rest.json()["error"]


def changed(**fields: Any) -> pb.ModelInferRequest:
    request = typed(prompt="a star", num_inference_steps=1)
    request.MergeFrom(pb.ModelInferRequest(**fields))
    return request


NUMBER = {"name": "width", "datatype": "INT64", "shape": [1]}


@pytest.mark.parametrize(
    ("request_", "code", "sentence"),
    [
        (typed(prompt="a star", width=63), "INVALID_ARGUMENT", "width: 63 is not between 64 and"),
        (typed(seed=1), "INVALID_ARGUMENT", "prompt: is missing"),
        (typed(prompt="a star", sede=1), "INVALID_ARGUMENT", "did you mean 'seed'?"),
        (pb.ModelInferRequest(), "INVALID_ARGUMENT", "model_name: is missing"),
        (pb.ModelInferRequest(model_name=MODEL_NAME), "INVALID_ARGUMENT", "inputs: must be a list"),
        (changed(model_name="other"), "NOT_FOUND", "other"),
        (changed(model_version="2"), "UNIMPLEMENTED", "one version of each model"),
        (changed(raw_input_contents=[b"x"]), "INVALID_ARGUMENT", "has 1 elements for 2 inputs"),
        (
            changed(raw_input_contents=[b"x", b"y"]),
            "INVALID_ARGUMENT",
            "prompt: has contents, but the request has raw_input_contents",
        ),
        (changed(outputs=[{"name": "x"}]), "INVALID_ARGUMENT", "outputs[0].name: must be one of"),
        (changed(inputs=[NUMBER]), "INVALID_ARGUMENT", "INT64 requires int64_contents"),
        (
            changed(inputs=[NUMBER | {"datatype": "INT8", "contents": {"int_contents": [300]}}]),
            "INVALID_ARGUMENT",
            "width: has a number that does not fit INT8",
        ),
        (
            changed(inputs=[NUMBER | {"datatype": "BOOL", "contents": {"bool_contents": [True]}}]),
            "INVALID_ARGUMENT",
            "width: datatype must be BYTES or one of",
        ),
        (
            changed(
                inputs=[
                    NUMBER | {"datatype": "FP64", "contents": {"fp64_contents": [float("nan")]}}
                ]
            ),
            "INVALID_ARGUMENT",
            "width: has numbers that are not finite",
        ),
    ],
)
def test_a_wrong_request_is_explained(
    stub: Any, request_: pb.ModelInferRequest, code: str, sentence: str
) -> None:
    found, details, metadata = refusal(lambda: stub.ModelInfer(request_))

    assert found.name == code
    assert sentence in details
    assert re.fullmatch("[0-9a-f]{32}", metadata["x-request-id"])


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (b"\x2a\x05abc", "is not a valid ModelInferRequest"),
        (b"\xff" * 11, "is not a valid ModelInferRequest"),
        (b"\x0b", "is not a valid ModelInferRequest"),
        # Eight million empty inputs, which take seconds to parse.
        (b"\x2a\x00" * 2**22, "has more than 2000 values"),
        # Two million packed numbers in one input.
        (
            pb.ModelInferRequest(
                inputs=[{"contents": {"int64_contents": [1] * 2**21}}]
            ).SerializeToString(),
            "has more than 2000 values",
        ),
    ],
    ids=["cut off", "no varint", "group", "inputs", "numbers"],
)
def test_a_hostile_message_is_refused(channel: grpc.Channel, message: bytes, sentence: str) -> None:
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    code, details, _ = refusal(lambda: call(message))

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert sentence in details


@pytest.mark.parametrize("extra", [1, 70_000], ids=["the server's bound", "gRPC's bound"])
def test_a_long_message_is_refused(channel: grpc.Channel, extra: int) -> None:
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    code, details, _ = refusal(lambda: call(bytes(16_777_216 + extra)))

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "16777216 bytes" in details or "larger than max" in details


def test_a_deadline_that_cannot_be_met_is_refused_or_ends_the_call(
    stub: Any, server: Server
) -> None:
    request = typed(prompt="a star", num_inference_steps=150, width=128, height=128)
    request.parameters["num_images_per_prompt"].int64_param = 12
    before = metric(server.url, "diffusion_pictures", state="in_flight")

    code, details, metadata = refusal(lambda: stub.ModelInfer(request, timeout=0.3))

    # The server compares it with its estimate, as it does with `timeout`.
    assert code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert details == "Deadline Exceeded" or ("retry-after" in metadata and "0.3" in details)
    wait_until(lambda: metric(server.url, "diffusion_pictures", state="in_flight") <= before)


def test_a_call_that_is_cancelled_ends_its_pictures(stub: Any, server: Server) -> None:
    request = typed(prompt="a star", num_inference_steps=150, width=128, height=128)
    request.parameters["num_images_per_prompt"].int64_param = 12

    call = stub.ModelInfer.future(request, metadata=[("x-request-id", "grpc-cancelled")])
    wait_for_metric(server.url, "diffusion_pictures", 1, state="in_flight")
    call.cancel()

    server.wait_for_log(r'"POST /inference.GRPCInferenceService/ModelInfer HTTP/2" 499')
    wait_until(lambda: metric(server.url, "diffusion_pictures", state="in_flight") == 0)
    wait_until(lambda: metric(server.url, "diffusion_pictures", state="waiting") == 0)


def test_rpcs_are_counted_as_requests(stub: Any, server: Server) -> None:
    def count(code: str) -> float:
        return metric(server.url, "diffusion_requests_total", code=code)

    before = count("200"), count("400")
    stub.ModelInfer(typed(prompt="a star", num_inference_steps=1))
    refusal(lambda: stub.ModelInfer(typed(prompt="a star", width=1)))

    assert (count("200"), count("400")) == (before[0] + 1, before[1] + 1)


def test_the_http_port_has_no_route_of_grpc(client: httpx.Client) -> None:
    answer = client.post("/inference.GRPCInferenceService/ModelInfer", content=b"")

    assert answer.status_code == 404
    assert "/inference." not in str(client.get("/openapi.json").json()["paths"].keys())
