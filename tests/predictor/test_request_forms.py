"""Spellings of other programs that a request may use, and what they stand for."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import pytest
from diffusers import UniPCMultistepScheduler
from PIL import Image

from predictor.errors import InvalidRequestError
from predictor.pipelines.schedulers import scheduler_names
from predictor.protocol import parse
from predictor.requests import GenerationDefaults, GenerationRequest, Limits, ModelProfile
from predictor.requests.sampler_names import EQUIVALENTS, NEAREST
from predictor.settings import Settings
from tests.predictor.decoding import decode
from tests.serving import PREDICT, picture_of

SCHEDULERS = (*EQUIVALENTS.values(), "default")
PROFILE = ModelProfile(
    "r1",
    GenerationDefaults(64, 64, 4, 2.0, "unipc"),
    8,
    SCHEDULERS,
    tasks=("text-to-image", "image-to-image", "inpainting"),
    controlnets=("canny",),
)
LIMITS = Limits(Settings(), PROFILE)
JSON = {"accept": "application/json"}


def request_of(body: dict[str, Any], limits: Limits = LIMITS) -> GenerationRequest:
    (picture,) = decode({"prompt": "a star"} | body, limits).pictures
    return picture.request


def refusal(body: dict[str, Any], limits: Limits = LIMITS) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        decode(body, limits)
    return str(caught.value)


def picture_text(colour: str = "red") -> str:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


@pytest.mark.parametrize(
    ("body", "name", "value"),
    [
        ({"steps": 20.0}, "num_inference_steps", 20),
        ({"seed": 1e9}, "seed", 10**9),
        ({"width": 128.0}, "width", 128),
    ],
)
def test_a_whole_number_may_be_written_as_a_decimal(
    body: dict[str, Any], name: str, value: int
) -> None:
    found = getattr(request_of(body), name)

    assert (found, type(found)) == (value, int)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"steps": 20.5}, "steps: must be an integer, not 20.5"),
        ({"seed": True}, "seed: must be an integer, not true"),
        ({"seed": float("inf")}, "seed: must be an integer, not Infinity"),
        ({"seed": 1e19}, f"seed: {10**19} is not between 0 and {2**53 - 1}; -1 draws one"),
        ({"n": 2.5}, "n: must be an integer, not 2.5"),
    ],
)
def test_another_number_is_not_an_integer(body: dict[str, Any], error: str) -> None:
    assert refusal({"prompt": "a star"} | body) == error


def test_a_huge_number_is_shown_in_part() -> None:
    error = refusal({"prompt": "a star", "seed": 1e308})

    assert error.startswith("seed: 1000000")
    assert len(error) < 150


def test_seed_minus_one_draws_a_seed() -> None:
    body = {"instances": [{"prompt": "a star"}, {"prompt": "a star"}], "parameters": {"seed": -1}}
    drawn = {request_of({"seed": -1}).seed for _ in range(4)}
    drawn |= {picture.request.seed for picture in decode(body, LIMITS).pictures}

    assert len(drawn) > 1
    assert all(0 <= seed < 2**32 for seed in drawn)


def test_the_pictures_of_a_drawn_seed_have_consecutive_seeds() -> None:
    first, second = decode({"prompt": "a star", "seed": -1, "n": 2}, LIMITS).pictures

    assert second.request.seed == first.request.seed + 1


@pytest.mark.parametrize("size", ["128x192", "128X192", " 128 x 192 "])
def test_size_sets_both_sides(size: str) -> None:
    bodies: list[dict[str, Any]] = [{"size": size}, {"parameters": {"size": size}}]

    for body in bodies:
        request = request_of(body)
        assert (request.width, request.height) == (128, 192)
        assert not hasattr(request, "size")


def test_an_instance_overrides_a_side_of_the_shared_size() -> None:
    body = {"instances": [{"prompt": "a star", "width": 256}], "parameters": {"size": "128x192"}}

    (picture,) = decode(body, LIMITS).pictures

    assert (picture.request.width, picture.request.height) == (256, 192)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"size": "big"}, 'size: must be a string such as "512x768", not "big"'),
        ({"size": "512"}, 'size: must be a string such as "512x768", not "512"'),
        ({"size": [512, 768]}, 'size: must be a string such as "512x768", not [512, 768]'),
        ({"size": "-64x64"}, 'size: must be a string such as "512x768", not "-64x64"'),
        ({"size": "100x64"}, "size: 100 is not a multiple of 8; the nearest are 96 and 104"),
        ({"size": "64x8"}, "size: 8 is not between 64 and 2048"),
        ({"size": "64x64", "width": 64}, "width is given twice, as `size` and `width`"),
        (
            {"height": 64, "parameters": {"size": "64x64"}},
            "height is given twice, as `height` and `parameters.size`",
        ),
    ],
)
def test_a_wrong_size_is_refused(body: dict[str, Any], error: str) -> None:
    assert refusal({"prompt": "a star"} | body) == error
    assert refusal({"instances": [{"prompt": "a star"} | body]}) in (
        f"instances[0].{error}",
        f"instances[0]: {error}",
    )


def test_jpg_is_jpeg() -> None:
    (picture,) = decode({"prompt": "a star", "output_format": "jpg"}, LIMITS).pictures

    assert picture.output_format == "jpeg"


@pytest.mark.parametrize(("sampler", "scheduler"), EQUIVALENTS.items())
def test_a_sampler_name_stands_for_a_scheduler(sampler: str, scheduler: str) -> None:
    for written in (sampler, sampler.lower(), sampler.upper(), f" {sampler.replace(' ', '  ')}"):
        assert request_of({"sampler": written}).scheduler == scheduler
    assert request_of({"scheduler": sampler}).scheduler == scheduler


def test_every_sampler_stands_for_a_scheduler_of_the_table() -> None:
    known = scheduler_names(UniPCMultistepScheduler())

    assert {*EQUIVALENTS.values()} <= {*known}
    assert {name for names in NEAREST.values() for name in names} <= {*known}
    assert EQUIVALENTS["DPM++ 2M Karras"] == "dpmpp_2m_karras"
    assert EQUIVALENTS["Euler a"] == "euler_a"
    assert not EQUIVALENTS.keys() & NEAREST.keys()


@pytest.mark.parametrize(("sampler", "nearest"), NEAREST.items())
def test_a_sampler_without_an_equivalent_names_the_nearest(
    sampler: str, nearest: tuple[str, ...]
) -> None:
    error = refusal({"prompt": "a star", "sampler": sampler.upper()})

    assert error.startswith(f'sampler: "{sampler.upper()}" is not one of dpmpp_2m, ')
    assert error.endswith(f"; nearest: {', '.join(nearest)}")


def test_only_schedulers_of_the_model_are_named() -> None:
    profile = ModelProfile("r1", PROFILE.defaults, 8, ("unipc", "heun"))
    limits = Limits(Settings(), profile)

    for written, shown in (("DPM2", "DPM2"), ("Euler a", "euler_a")):
        error = refusal({"prompt": "a star", "sampler": written}, limits)
        assert error.startswith(f'sampler: "{shown}" is not one of unipc, heun')
    assert refusal({"prompt": "a star", "sampler": "DPM2"}, limits).endswith("; nearest: heun")


@pytest.mark.parametrize("form", [lambda text: {"b64": text}, lambda text: text])
@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_every_picture_may_be_in_the_binary_form_of_kserve(form: Any, prefix: str) -> None:
    red, white = form(prefix + picture_text()), form(prefix + picture_text("white"))
    body = {"image": red, "mask_image": white, "controlnet": {"name": "canny", "image": red}}

    request = request_of(body)

    assert request.image and request.mask_image and request.controlnet
    assert request.image.image.getpixel((0, 0)) == (255, 0, 0)
    assert request.mask_image.image.getpixel((0, 0)) == 255
    assert request.controlnet.image == request.image
    assert parse({"prompt": "a star"} | body, None, LIMITS).has_images


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"image": {"b64": 5}}, "image: must be a string, not 5"),
        ({"image": {}}, "image: must be a string, not {}"),
        ({"image": {"b64": "xx", "x": 1}}, "image: must be a string, not {"),
        ({"mask_image": {"b64": None}}, "mask_image: must be a string, not null"),
        (
            {"controlnet": {"name": "canny", "image": {"b64": []}}},
            "controlnet.image: must be a string, not []",
        ),
        ({"image": {"b64": "***"}}, "image: is neither base64"),
        ({"prompt": {"b64": "xx"}}, "prompt: must be a string, not {"),
    ],
)
def test_a_wrong_binary_form_is_refused(body: dict[str, Any], error: str) -> None:
    assert refusal({"prompt": "a star"} | body).startswith(error)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"seed": "x"}, "prompt: is missing"),
        ({"xyz": 1}, "prompt: is missing"),
        ({"promt": "a star", "seed": "x"}, "promt: unknown parameter; did you mean 'prompt'?"),
        ({"prompt": "a star", "controlnet": {"scale": "x"}}, "controlnet.name: is missing"),
        ({"prompt": "a star", "adapters": [{"scale": "x"}]}, "adapters[0].name: is missing"),
        ({"instances": [{"seed": "x"}]}, "instances[0].prompt: is missing"),
    ],
)
def test_a_missing_field_is_named_first(body: dict[str, Any], error: str) -> None:
    assert refusal(body) == error


def test_the_server_takes_the_spellings_and_answers_with_the_names(client: httpx.Client) -> None:
    body = {"prompt": "a red star", "size": "64x64", "steps": 3.0, "sampler": "Euler a", "seed": -1}

    (made,) = client.post(PREDICT, json=body | {"output_format": "jpg"}, headers=JSON).json()[
        "predictions"
    ]

    assert (made["width"], made["height"], made["num_inference_steps"]) == (64, 64, 3)
    assert (made["scheduler"], made["image"]["format"]) == ("euler_a", "jpeg")
    assert made["seed"] >= 0
    again = client.post(PREDICT, json=body | {"seed": made["seed"], "sampler": "euler_a"})
    assert picture_of(again).size == (64, 64)
