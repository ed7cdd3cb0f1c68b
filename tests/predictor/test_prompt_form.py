"""The prompt form of ``:predict`` returns the requested picture."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from demo.judge import look_at
from demo.shapes import Scene
from demo.tokenizer import WINDOW
from modelstore import Marker
from tests.serving import MODEL_NAME, PREDICT, Server, picture_of

SCENES = [
    Scene("red", "circle", "blue"),
    Scene("white", "star", "purple"),
    Scene("black", "triangle", "yellow"),
    Scene("green", "square", "orange"),
]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.prompt)
def test_the_picture_shows_what_the_prompt_says(client: httpx.Client, scene: Scene) -> None:
    picture = picture_of(client.post(PREDICT, json={"prompt": scene.prompt, "seed": 7}))

    assert look_at(picture).shows(scene), look_at(picture)


def test_a_body_without_a_json_content_type_is_accepted(client: httpx.Client) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = '{"prompt": "a red circle on a blue background", "parameters": {"seed": 7}}'

    as_form = client.post(PREDICT, content=body, headers=form)
    as_json = client.post(PREDICT, content=body, headers={"content-type": "application/json"})

    assert np.array_equal(picture_of(as_form), picture_of(as_json))


def test_the_headers_hold_seed_model_revision_and_seconds(
    client: httpx.Client, server: Server, demo_model
) -> None:
    response = client.post(PREDICT, json={"prompt": "a red star", "parameters": {"seed": 424242}})

    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-seed"] == "424242"
    assert response.headers["x-model-name"] == MODEL_NAME
    assert response.headers["x-model-revision"] == Marker.read(demo_model).revision
    first_step, picture = (
        float(response.headers[name]) for name in ("x-first-step-seconds", "x-generation-seconds")
    )
    assert 0 < first_step < picture < 60


def test_the_size_and_the_steps_are_the_requested_ones(client: httpx.Client) -> None:
    response = client.post(
        PREDICT,
        json={
            "prompt": "a red star on a white background",
            "parameters": {"width": 96, "height": 64, "num_inference_steps": 3},
        },
        headers={"accept": "application/json"},
    )

    prediction = response.json()["predictions"][0]
    assert (prediction["width"], prediction["height"]) == (96, 64)
    assert prediction["num_inference_steps"] == 3


def test_a_negative_prompt_at_the_top_or_in_parameters_changes_the_picture(
    client: httpx.Client,
) -> None:
    prompt = {"prompt": "a red star on a white background", "parameters": {"seed": 1}}
    below = {"seed": 1, "negative_prompt": "a blue circle on a black background"}

    plain = picture_of(client.post(PREDICT, json=prompt))
    top = client.post(PREDICT, json=prompt | {"negative_prompt": below["negative_prompt"]})
    nested = client.post(PREDICT, json=prompt | {"parameters": below})

    assert np.array_equal(picture_of(top), picture_of(nested))
    assert not np.array_equal(plain, picture_of(top))


def test_several_pictures_are_returned_as_json(client: httpx.Client) -> None:
    response = client.post(
        PREDICT, json={"prompt": "a red star", "parameters": {"num_images_per_prompt": 2}}
    )

    assert response.headers["content-type"] == "application/json"
    assert len(response.json()["predictions"]) == 2


def test_a_too_long_prompt_gets_a_warning_that_quotes_the_dropped_words(
    client: httpx.Client,
) -> None:
    sentence = "a red star on a white background"
    kept = sentence + " red" * (WINDOW - 2 - len(sentence.split()))
    prompt = f"{kept} Überlange Zebras, dropped"

    response = client.post(PREDICT, json={"prompt": prompt})
    as_json = client.post(PREDICT, json={"prompt": prompt}, headers={"accept": "application/json"})

    assert response.headers["x-warning"].isascii()
    warning = as_json.json()["predictions"][0]["warnings"][0]
    assert warning == (
        "prompt is longer than the text encoder reads; dropped: 'Überlange Zebras, dropped'"
    )
    assert "x-warning" not in client.post(PREDICT, json={"prompt": kept}).headers
