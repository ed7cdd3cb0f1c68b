"""Inference over the Open Inference Protocol v2, with KServe's and Triton's clients."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from kserve import InferenceRESTClient, InferInput, InferRequest, InferResponse, RESTConfig
from PIL import Image
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from demo.judge import look_at
from demo.shapes import SIZE, Placement, Scene, draw
from tests.serving import MODEL_NAME, PREDICT, Server, picture_of

ROUTE = f"/v2/models/{MODEL_NAME}/infer"
CIRCLE = Scene("red", "circle", "blue")
STAR = Scene("yellow", "star", "blue")
PICTURE = draw(CIRCLE, Placement(x=26, y=36, radius=18))
DTYPES = {"BYTES": np.object_, "INT64": np.int64, "FP64": np.float64}


def opened(content: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(content))
    picture.load()
    return picture


def file_of(image: Image.Image, file_format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format)
    return stream.getvalue()


def tensor(name: str, datatype: str, *elements: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(elements)], "data": [*elements]}


def ask_triton(server: Server, columns: dict[str, tuple[str, list[Any]]], **options: Any) -> Any:
    """Ask with Triton's client, all inputs and outputs in binary form."""
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        inputs = []
        for name, (datatype, elements) in columns.items():
            one = triton.InferInput(name, [len(elements)], datatype)
            inputs.append(one.set_data_from_numpy(np.array(elements, dtype=DTYPES[datatype])))
        return client.infer(MODEL_NAME, inputs, **options)


def ask_kserve(server: Server, request: InferRequest) -> InferResponse:
    async def infer() -> Any:
        client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
        try:
            return await client.infer(server.url, request, model_name=MODEL_NAME)
        finally:
            await client.close()

    return asyncio.run(infer())


def test_kserves_client_gets_the_picture_of_predict(server: Server, client: httpx.Client) -> None:
    inputs = [
        InferInput("prompt", [1], "BYTES", [CIRCLE.prompt]),
        InferInput("seed", [1], "INT64", [7]),
        InferInput("guidance_scale", [1], "FP64", [2.5]),
    ]
    body = {"prompt": CIRCLE.prompt, "seed": 7, "guidance_scale": 2.5}

    answer = ask_kserve(server, InferRequest(MODEL_NAME, inputs, request_id="mine"))

    image, seed = answer.outputs
    picture = opened(base64.b64decode(image.data[0]))
    assert (answer.id, answer.model_name) == ("mine", MODEL_NAME)
    assert (image.name, image.datatype, image.shape) == ("image", "BYTES", [1])
    assert (seed.name, seed.datatype, seed.data) == ("seed", "INT64", [7])
    assert look_at(picture).shows(CIRCLE)
    expected = picture_of(client.post(PREDICT, json=body))
    assert np.abs(np.asarray(picture, int) - np.asarray(expected, int)).max() <= 2


def test_kserves_client_can_send_binary_inputs(server: Server) -> None:
    one = InferInput("prompt", [1], "BYTES")
    one.set_data_from_numpy(np.array([CIRCLE.prompt], dtype=np.object_), binary_data=True)
    steps = InferInput("num_inference_steps", [1], "INT64")
    steps.set_data_from_numpy(np.array([2]), binary_data=True)

    answer = ask_kserve(server, InferRequest(MODEL_NAME, [one, steps]))

    assert opened(base64.b64decode(answer.outputs[0].data[0])).size == (SIZE, SIZE)


def test_each_row_is_a_picture_in_binary_form(server: Server) -> None:
    scenes = [CIRCLE, Scene("white", "star", "purple")]
    columns: dict[str, tuple[str, list[Any]]] = {
        "prompt": ("BYTES", [scene.prompt for scene in scenes]),
        "seed": ("INT64", [7, 2**53 - 1]),
        # One element holds for all rows.
        "guidance_scale": ("FP64", [2.0]),
    }

    answer = ask_triton(server, columns, request_id="7")

    response = answer.get_response()
    pictures = [opened(one) for one in answer.as_numpy("image")]
    assert (response["id"], response["model_name"]) == ("7", MODEL_NAME)
    assert answer.as_numpy("seed").tolist() == [7, 2**53 - 1]
    for picture, scene in zip(pictures, scenes, strict=True):
        assert look_at(picture).shows(scene)


@pytest.mark.parametrize("file_format", ["PNG", "BMP"])
def test_pictures_are_sent_as_files_and_repainted_inside_the_mask(
    server: Server, file_format: str
) -> None:
    mask = Image.new("L", (SIZE, SIZE))
    mask.paste(255, (8, 8, 56, 56))

    answer = ask_triton(
        server,
        {
            "prompt": ("BYTES", [STAR.prompt]),
            "image": ("BYTES", [file_of(PICTURE, file_format)]),
            "mask_image": ("BYTES", [file_of(mask, file_format)]),
            "seed": ("INT64", [2]),
        },
    )

    made = opened(answer.as_numpy("image")[0])
    outside = np.asarray(mask) == 0
    assert (np.asarray(made)[outside] == np.asarray(PICTURE)[outside]).all()
    assert look_at(made).shows(STAR)


def test_the_requested_outputs_are_returned_in_the_requested_form(server: Server) -> None:
    columns: dict[str, tuple[str, list[Any]]] = {
        "prompt": ("BYTES", ["a star"]),
        "num_inference_steps": ("INT64", [1]),
        "seed": ("INT64", [5]),
    }

    seed = ask_triton(
        server, columns, outputs=[triton.InferRequestedOutput("seed", binary_data=False)]
    )
    both = ask_triton(
        server,
        columns,
        outputs=[
            triton.InferRequestedOutput("seed", binary_data=False),
            triton.InferRequestedOutput("image"),
        ],
        priority=1,
        timeout=60_000_000,
    )

    assert seed.get_response()["outputs"] == [tensor("seed", "INT64", 5)]
    assert both.as_numpy("seed").tolist() == [5]
    assert opened(both.as_numpy("image")[0]).size == (SIZE, SIZE)


def test_every_announced_input_is_read(client: httpx.Client) -> None:
    metadata = client.get(f"/v2/models/{MODEL_NAME}").json()
    picture = base64.b64encode(file_of(PICTURE)).decode()
    values: dict[str, Any] = {
        "prompt": "a star",
        "negative_prompt": "a circle",
        "seed": 1,
        "width": 64,
        "height": 64,
        "num_inference_steps": 2,
        "guidance_scale": 2.0,
        "scheduler": "euler",
        "image": picture,
        "mask_image": picture,
        "strength": 1.0,
        "clip_skip": 0,
        "guidance_rescale": 0.5,
        "prompt_syntax": "weighted",
        "num_images_per_prompt": 1,
        "output_format": "webp",
        "timeout": 60.0,
    }
    announced = {one["name"]: one["datatype"] for one in metadata["inputs"]}
    assert announced.keys() == values.keys()
    # No model supports it together with a picture.
    del announced["guidance_rescale"]
    inputs = [tensor(name, datatype, values[name]) for name, datatype in announced.items()]

    answer = client.post(ROUTE, json={"inputs": inputs}).json()

    assert [one["name"] for one in answer["outputs"]] == [
        one["name"] for one in metadata["outputs"]
    ]
    assert answer["model_version"] == metadata["versions"][0]
    assert opened(base64.b64decode(answer["outputs"][0]["data"][0])).format == "WEBP"


def test_other_fields_are_parameters(client: httpx.Client) -> None:
    body = {
        "inputs": [tensor("prompt", "BYTES", "a star")],
        "parameters": {"steps": 2, "size": "96x64", "adapters": '[{"name": "x"}]'},
    }

    refused = client.post(ROUTE, json=body)
    del body["parameters"]["adapters"]  # type: ignore[attr-defined]
    answer = client.post(ROUTE, json=body)

    assert refused.status_code == 400
    assert 'adapters[0].name: "x" is not known' in refused.json()["error"]
    assert opened(base64.b64decode(answer.json()["outputs"][0]["data"][0])).size == (96, 64)


PROMPT = tensor("prompt", "BYTES", "a star")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "inputs: must be a list of tensors"),
        ({"inputs": [{"name": 3}]}, "inputs[0].name: must be a string"),
        ({"inputs": [PROMPT, PROMPT]}, "prompt: is given twice"),
        ({"inputs": [PROMPT | {"shape": [2]}]}, "prompt: shape has 2 elements, and data 1"),
        ({"inputs": [PROMPT | {"shape": [-1]}]}, "prompt: shape must be [n]"),
        ({"inputs": [PROMPT | {"datatype": "TEXT"}]}, "prompt: datatype must be BYTES or one of"),
        ({"inputs": [tensor("prompt", "INT64", "a")]}, "prompt: data does not match"),
        ({"inputs": [PROMPT, tensor("width", "INT64", 63)]}, "width: 63 is not between"),
        (
            {"inputs": [PROMPT, tensor("width", "INT64", 64, 63)]},
            "width[1]: 63 is not between",
        ),
        (
            {"inputs": [tensor("prompt", "BYTES", *"ab"), tensor("seed", "INT64", 1, 2, 3)]},
            "prompt: has 2 elements; the others have 3",
        ),
        ({"inputs": [tensor("seed", "INT64", 1)]}, "prompt: is missing"),
        ({"inputs": [PROMPT, tensor("sede", "INT64", 1)]}, "did you mean 'seed'?"),
        ({"inputs": [PROMPT], "outputs": [{"name": "x"}]}, "outputs[0].name: must be one of"),
        ({"inputs": [PROMPT], "parameters": 3}, "parameters: must be a JSON object"),
    ],
)
def test_wrong_tensors_are_refused(client: httpx.Client, body: Any, error: str) -> None:
    answer = client.post(ROUTE, json=body)

    assert answer.status_code == 400
    assert error in answer.json()["error"]


@pytest.mark.parametrize(
    ("size", "binary", "error"),
    [
        (9, b"\x05\0\0\0a st", "binary_data_size is 9, but less follows"),
        (8, b"\x05\0\0\0a st", "the binary data is cut off"),
        (2, b"\x05\0", "the binary data is cut off"),
        (5, b"\x01\0\0\0\xff", "prompt: is not valid UTF-8"),
        (5, b"\x01\0\0\0aXX", "2 bytes follow the last binary tensor"),
        (0, b"", "prompt: shape has 1 elements, and the binary data 0"),
    ],
)
def test_wrong_binary_data_is_refused(
    client: httpx.Client, size: int, binary: bytes, error: str
) -> None:
    prompt = {"name": "prompt", "datatype": "BYTES", "shape": [1]}
    document = json.dumps({"inputs": [prompt | {"parameters": {"binary_data_size": size}}]})
    length = {"inference-header-content-length": str(len(document))}

    answer = client.post(ROUTE, content=document.encode() + binary, headers=length)

    assert answer.status_code == 400
    assert error in answer.json()["error"]


def test_an_error_reaches_tritons_client(server: Server) -> None:
    with pytest.raises(InferenceServerException, match="width: 63 is not between"):
        ask_triton(server, {"prompt": ("BYTES", ["a"]), "width": ("INT64", [63])})
