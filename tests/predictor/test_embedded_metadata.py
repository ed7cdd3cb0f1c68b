"""Metadata of every length and alphabet in every format: the picture is never lost."""

from __future__ import annotations

import io
import json
from typing import Any, get_args

import httpx
import pytest
from PIL import ExifTags, Image

from predictor.images import OutputFormat, encode_image
from tests.serving import PREDICT, picture_of

PICTURE = Image.new("RGB", (16, 16), "red")
FORMATS = get_args(OutputFormat)
LOSSY = [name for name in FORMATS if name != "png"]
# Twelve characters of JSON each.
ASTRAL = "\N{GRINNING FACE}" * 4096
CONTROL = "".join(map(chr, [*range(32), 127, 0x85, 0x2028, 0xFEFF]))


def metadata(prompt: str, negative_prompt: str = "") -> dict[str, Any]:
    parameters = {"negative_prompt": negative_prompt, "adapters": [{"name": "x", "scale": 1.0}]}
    return {"prompt": prompt, "seed": 7, "parameters": parameters, "model": "m", "revision": "r"}


def embedded(picture: Image.Image) -> Any:
    comment = picture.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    return json.loads(comment.removeprefix(b"ASCII\0\0\0"))


def encoded(values: dict[str, Any], name: OutputFormat) -> Image.Image:
    picture = Image.open(io.BytesIO(encode_image(PICTURE, name, values)))
    picture.load()
    return picture


@pytest.mark.parametrize("negative_prompt", ["", ASTRAL, "x" * 4096])
def test_in_jpeg_long_texts_are_cut_and_marked(negative_prompt: str) -> None:
    values = metadata(ASTRAL * 2, negative_prompt)

    found = embedded(encoded(values, "jpeg"))

    assert found["shortened"] is True
    assert found["prompt"].endswith("…")
    assert values["prompt"].startswith(found["prompt"][:-1])
    assert len(found["prompt"]) > 2000
    assert {**found, "prompt": "", "parameters": ""} == {
        **values,
        "prompt": "",
        "parameters": "",
        "shortened": True,
    }
    kept = found["parameters"]["negative_prompt"]
    assert kept == negative_prompt or (kept.endswith("…") and len(kept) > 2000)
    assert found["parameters"]["adapters"] == values["parameters"]["adapters"]


@pytest.mark.parametrize("name", LOSSY)
def test_texts_that_fit_are_whole(name: OutputFormat) -> None:
    values = metadata("é" * 5000, "x" * 4096)

    assert embedded(encoded(values, name)) == values


def test_in_jpeg_metadata_that_cannot_fit_are_left_out() -> None:
    values = metadata("x") | {"parameters": [0] * 100_000}

    assert embedded(encoded(values, "jpeg")) == {"shortened": True}


def test_other_formats_keep_the_whole_text() -> None:
    values = metadata(ASTRAL, ASTRAL)

    assert embedded(encoded(values, "webp")) == values
    text = encoded(values, "png").info

    assert text["prompt"] == ASTRAL
    assert json.loads(text["parameters"])["negative_prompt"] == ASTRAL


def test_control_characters_are_kept_except_nul_in_png() -> None:
    values = metadata(CONTROL)

    without_nul = CONTROL.replace("\0", "\N{REPLACEMENT CHARACTER}")
    assert encoded(values, "png").info["prompt"] == without_nul
    assert embedded(encoded(values, "jpeg")) == values


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "prompts",
    [
        {"prompt": ASTRAL, "negative_prompt": ASTRAL},
        {"prompt": "a red star" + CONTROL, "negative_prompt": CONTROL},
    ],
    ids=["long", "control characters"],
)
def test_every_prompt_gets_a_picture(
    client: httpx.Client, name: str, prompts: dict[str, str]
) -> None:
    body = prompts | {"output_format": name, "steps": 1}

    response = client.post(PREDICT, json=body)
    (prediction,) = client.post(PREDICT, json=body, headers={"accept": "application/json"}).json()[
        "predictions"
    ]

    assert picture_of(response).format == name.upper()
    assert prediction["prompt"] == prompts["prompt"]
