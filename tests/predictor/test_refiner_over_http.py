"""A base and its refiner on a volume, served by a real process."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image

from tests.predictor.random_refiner import publish, save_pair
from tests.predictor.test_progress import EVENTS, events
from tests.serving import PREDICT, Server

BODY = {"prompt": "a red circle", "width": 64, "height": 64, "num_inference_steps": 5, "seed": 1}


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("refined")
    save_pair(folder)
    with Server.started(publish(folder, folder), folder / "log") as running:
        running.wait_until_ready()
        with httpx.Client(base_url=running.url, timeout=60) as client:
            yield client


@pytest.mark.parametrize(
    ("given", "effective"),
    [({}, 0.8), ({"denoising_end": 0.5}, 0.5), ({"denoising_end": 1}, 1.0)],
    ids=str,
)
def test_a_prediction_reports_the_hand_over(
    refined: httpx.Client, given: dict[str, float], effective: float
) -> None:
    response = refined.post(PREDICT, json={"instances": [BODY | given]})

    assert response.json()["predictions"][0]["denoising_end"] == effective


def test_the_metadata_of_a_picture_reports_it_too(refined: httpx.Client) -> None:
    response = refined.post(PREDICT, json=BODY)

    with Image.open(io.BytesIO(response.content)) as picture:
        assert json.loads(picture.info["parameters"])["denoising_end"] == 0.8


def test_progress_counts_the_steps_of_base_and_refiner(refined: httpx.Client) -> None:
    body = BODY | {"denoising_end": 0.5, "scheduler": "heun"}
    with refined.stream("POST", PREDICT, json=body, headers=EVENTS) as response:
        progress = [data for name, data in events(response.iter_lines()) if name == "progress"]

    # Heun takes nine passes for five steps; both take the pass in the middle of a step.
    assert progress[-1] == {"step": 10, "steps": 10}
    assert [data["step"] for data in progress] == sorted(data["step"] for data in progress)
    assert {data["steps"] for data in progress[1:]} == {10}


def test_a_hand_over_out_of_range_is_a_400(refined: httpx.Client) -> None:
    response = refined.post(PREDICT, json=BODY | {"denoising_end": 1.5})

    assert response.status_code == 400
    assert response.json() == {"error": "denoising_end: 1.5 is not above 0 and at most 1"}


def test_without_a_refiner_a_hand_over_is_a_400(client: httpx.Client) -> None:
    response = client.post(PREDICT, json={"prompt": "a star", "denoising_end": 0.8})

    assert response.status_code == 400
    assert response.json() == {"error": "denoising_end: the model has no refiner"}
