"""KServe's form of ``:predict``: ``instances`` in, ``predictions`` out, in the same order."""

from __future__ import annotations

import base64
import io

import httpx
from PIL import Image

from demo.judge import look_at
from demo.shapes import Scene
from tests.serving import PREDICT

STAR = Scene("yellow", "star", "blue")
SQUARE = Scene("black", "square", "red")


def pictures_in(response: httpx.Response) -> list[Image.Image]:
    assert response.status_code == 200, response.text
    images = [prediction["image"] for prediction in response.json()["predictions"]]
    return [Image.open(io.BytesIO(base64.b64decode(image["b64"]))) for image in images]


def test_every_instance_is_answered_in_order(client: httpx.Client) -> None:
    scenes = [STAR, SQUARE, STAR]

    response = client.post(
        PREDICT, json={"instances": [{"prompt": scene.prompt, "seed": 7} for scene in scenes]}
    )

    seen = [look_at(picture) for picture in pictures_in(response)]
    assert all(sight.shows(scene) for sight, scene in zip(seen, scenes, strict=True)), seen


def test_parameters_may_be_flat_nested_or_shared(client: httpx.Client) -> None:
    response = client.post(
        PREDICT,
        json={
            "instances": [
                {"prompt": STAR.prompt, "seed": 1, "output_format": "webp"},
                {"prompt": STAR.prompt, "parameters": {"seed": 2, "guidance_scale": 3}},
                {"prompt": STAR.prompt},
            ],
            "parameters": {"seed": 3, "num_inference_steps": 4, "guidance_scale": 2.5},
        },
    )

    predictions = response.json()["predictions"]
    assert [one["seed"] for one in predictions] == [1, 2, 3]
    assert [one["guidance_scale"] for one in predictions] == [2.5, 3, 2.5]
    assert [one["image"]["format"] for one in predictions] == ["webp", "png", "png"]
    assert {one["num_inference_steps"] for one in predictions} == {4}


def test_a_prediction_echoes_the_effective_parameters(client: httpx.Client) -> None:
    response = client.post(PREDICT, json={"instances": [{"prompt": STAR.prompt, "seed": 5}]})

    prediction = response.json()["predictions"][0]
    del prediction["image"]
    assert prediction == {
        "prompt": STAR.prompt,
        "negative_prompt": "",
        "seed": 5,
        "width": 64,
        "height": 64,
        "num_inference_steps": 20,
        "guidance_scale": 2.0,
        "scheduler": "unipc",
    }


def test_one_prediction_for_each_picture_of_an_instance(client: httpx.Client) -> None:
    response = client.post(
        PREDICT,
        json={
            "instances": [
                {"prompt": STAR.prompt, "num_images_per_prompt": 2, "seed": 10},
                {"prompt": SQUARE.prompt, "seed": 20},
            ]
        },
    )

    predictions = response.json()["predictions"]
    assert [(one["prompt"], one["seed"]) for one in predictions] == [
        (STAR.prompt, 10),
        (STAR.prompt, 11),
        (SQUARE.prompt, 20),
    ]
