"""``GET /v2/models/{name}``: the Open Inference Protocol's fields and the model's parameters."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from modelstore import Marker
from predictor.protocol.body import Instance
from predictor.protocol.model_metadata import model_metadata
from predictor.requests import GenerationDefaults, ModelProfile
from predictor.requests.fields import COMPOUNDS, FIELDS
from predictor.settings import Settings
from tests.serving import MODEL_NAME, PREDICT, Server

ROUTE = f"/v2/models/{MODEL_NAME}"
INPUTS = {field.name for field in FIELDS if field.datatype}
DEFAULTS = GenerationDefaults(64, 64, 4, 0.0, "default")


def test_the_metadata_describe_the_model_and_its_inputs(
    client: httpx.Client, demo_model: Path
) -> None:
    response = client.get(ROUTE)
    answer = response.json()

    assert response.status_code == 200
    assert answer["name"] == MODEL_NAME
    assert answer["versions"] == [Marker.read(demo_model).revision]
    assert answer["platform"] == "diffusers"
    assert {"name": "prompt", "datatype": "BYTES", "shape": [-1]} in answer["inputs"]
    assert answer["outputs"][0] == {"name": "image", "datatype": "BYTES", "shape": [-1]}
    assert answer["family"] == "sd1"
    assert "text-to-image" in answer["tasks"]
    assert answer["defaults"]["num_inference_steps"] == 20
    assert answer["limits"]["max_side"] == 2048
    assert (answer["adapters"], answer["controlnets"], answer["has_refiner"]) == ([], [], False)


def test_exactly_the_listed_schedulers_are_accepted(client: httpx.Client) -> None:
    """The refusal of another scheduler lists them too."""
    schedulers = client.get(ROUTE).json()["schedulers"]
    body = {"prompt": "a red star", "num_inference_steps": 2}

    for name in schedulers:
        answer = client.post(PREDICT, json=body | {"scheduler": name})
        assert answer.status_code == 200, (name, answer.text)
    refused = client.post(PREDICT, json=body | {"scheduler": "flow"})
    assert refused.status_code == 400
    listed = ", ".join(schedulers)
    assert refused.json() == {"error": f'scheduler: "flow" is not one of {listed}'}


def test_more_steps_than_lcm_has_are_refused(client: httpx.Client) -> None:
    most = client.get(ROUTE).json()["limits"]["most_steps"]["lcm"]
    body = {"prompt": "a red star", "scheduler": "lcm"}

    assert client.post(PREDICT, json=body | {"num_inference_steps": most}).status_code == 200
    refused = client.post(PREDICT, json=body | {"num_inference_steps": most + 1})
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("num_inference_steps: 51 exceeds the 50")


def test_an_unknown_model_is_not_found(client: httpx.Client) -> None:
    assert client.get("/v2/models/other").status_code == 404


def test_the_v1_route_is_unchanged(client: httpx.Client) -> None:
    expected = {"name": MODEL_NAME, "ready": True}

    assert client.get(f"/v1/models/{MODEL_NAME}").json() == expected


def test_a_loading_model_gets_503(demo_model: Path, tmp_path: Path) -> None:
    with Server.started(demo_model, tmp_path / "log") as server:
        server.wait_for("/")
        early = httpx.get(server.url + ROUTE)

    assert early.status_code == 503
    assert "retry-after" in early.headers


def test_every_scalar_field_has_a_type() -> None:
    composite = {"adapters", "controlnet", "parameters", *COMPOUNDS}
    # Inference without a stream has no previews.
    without_effect = {"previews"}

    assert set(Instance.model_fields) - composite - without_effect == INPUTS


@pytest.mark.parametrize(
    ("tasks", "absent"),
    [
        (("text-to-image",), {"image", "strength", "mask_image"}),
        (("text-to-image", "image-to-image"), {"mask_image"}),
        (("text-to-image", "inpainting"), set()),
    ],
)
def test_fields_that_would_be_refused_are_not_listed(
    tasks: tuple[str, ...], absent: set[str]
) -> None:
    unused = {"negative_prompt": "why"}
    profile = ModelProfile("r1", DEFAULTS, 8, (), tasks=tasks, unused_fields=unused)  # type: ignore[arg-type]
    answer = model_metadata("m", profile, Settings())
    inputs = {one["name"] for one in answer["inputs"]}

    unsupported = {"negative_prompt", "denoising_end", "clip_skip", "guidance_rescale"}
    unsupported |= {"true_cfg_scale", "prompt_syntax"}
    assert INPUTS - inputs == absent | unsupported
    assert answer["unused_fields"] == unused
