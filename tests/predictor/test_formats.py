"""Formats, chosen by ``output_format`` or ``Accept``, and the metadata inside the files."""

from __future__ import annotations

import json

import httpx
import pytest
from PIL import ExifTags, Image

from demo.judge import look_at
from demo.shapes import Scene
from modelstore import Marker
from tests.serving import MODEL_NAME, PREDICT, Server, picture_of

SCENE = Scene("red", "square", "white")
PARAMETERS = {
    "negative_prompt": "",
    "width": 64,
    "height": 64,
    "num_inference_steps": 20,
    "guidance_scale": 2.0,
    "scheduler": "unipc",
}


def generate(client: httpx.Client, accept: str = "*/*", **parameters: object) -> httpx.Response:
    return client.post(
        PREDICT,
        json={"prompt": SCENE.prompt, "parameters": {"seed": 11, **parameters}},
        headers={"accept": accept},
    )


@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_the_output_format_is_the_requested_one(client: httpx.Client, name: str) -> None:
    response = generate(client, output_format=name)

    picture = picture_of(response)
    assert response.headers["content-type"] == f"image/{name}"
    assert picture.format == name.upper()
    assert look_at(picture).shows(SCENE)


@pytest.mark.parametrize(
    ("accept", "parameters", "expected"),
    [
        ("image/webp", {}, "image/webp"),
        ("text/html, image/jpeg;q=0.5, image/webp;q=0.9", {}, "image/webp"),
        ("image/*", {}, "image/png"),
        ("image/jpg", {}, "image/jpeg"),
        ("text/html", {}, "image/png"),
        ("image/webp", {"output_format": "jpeg"}, "image/jpeg"),
        ("application/json", {"output_format": "jpeg"}, "application/json"),
        ("application/json;q=0, image/png", {}, "image/png"),
    ],
)
def test_accept_chooses_the_format_if_the_request_does_not(
    client: httpx.Client, accept: str, parameters: dict[str, str], expected: str
) -> None:
    assert generate(client, accept, **parameters).headers["content-type"] == expected


def test_json_carries_the_requested_format(client: httpx.Client) -> None:
    response = generate(client, "application/json", output_format="webp")

    assert response.json()["predictions"][0]["image"]["format"] == "webp"


def test_a_png_holds_its_parameters(client: httpx.Client, demo_model) -> None:
    text = picture_of(generate(client)).info

    assert text["prompt"] == SCENE.prompt
    assert text["seed"] == "11"
    assert json.loads(text["parameters"]) == PARAMETERS
    assert text["model"] == MODEL_NAME
    assert text["revision"] == Marker.read(demo_model).revision


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_other_formats_hold_their_parameters_in_exif(
    client: httpx.Client, demo_model, name: str
) -> None:
    exif = picture_of(generate(client, output_format=name)).getexif()

    comment = exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert json.loads(comment.removeprefix(b"ASCII\0\0\0")) == {
        "prompt": SCENE.prompt,
        "seed": 11,
        "parameters": PARAMETERS,
        "model": MODEL_NAME,
        "revision": Marker.read(demo_model).revision,
    }


def test_a_setting_leaves_the_metadata_out(demo_model, tmp_path) -> None:
    with Server.started(demo_model, tmp_path / "log", embed_metadata=False) as server:
        server.wait_until_ready()
        with httpx.Client(base_url=server.url, timeout=60) as client:
            png: Image.Image = picture_of(generate(client))
            jpeg = picture_of(generate(client, output_format="jpeg"))

    assert png.info == {}
    assert dict(jpeg.getexif()) == {}
