"""The table of request fields: what is derived from it, and the aliases."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import httpx
import pytest

from predictor.errors import InvalidRequestError
from predictor.protocol import parse
from predictor.requests import GenerationDefaults, GenerationRequest, Limits, ModelProfile
from predictor.requests.fields import CANONICAL, FIELDS
from predictor.settings import Settings
from tests.predictor.decoding import decode
from tests.serving import PREDICT

SCHEDULERS = ("unipc", "euler")
PROFILE = ModelProfile("r1", GenerationDefaults(64, 64, 4, 2.0, "unipc"), 8, SCHEDULERS)
LIMITS = Limits(Settings(), PROFILE)
ALIASES = [
    ("steps", "num_inference_steps", 7),
    ("cfg_scale", "guidance_scale", 3.5),
    ("sampler", "scheduler", "euler"),
]


def refusal(body: dict[str, Any]) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        decode(body, LIMITS)
    return str(caught.value)


def test_a_request_has_the_fields_of_the_table_in_its_order() -> None:
    """The number of pictures, their format, previews and the timeout belong to the call."""
    of_the_call = {"num_images_per_prompt", "output_format", "previews", "timeout"}

    named = [field.name for field in FIELDS if field.name not in of_the_call]
    assert named == [field.name for field in fields(GenerationRequest)]


def test_no_name_or_alias_is_used_twice() -> None:
    assert len(CANONICAL) == sum(1 + len(field.aliases) for field in FIELDS)


@pytest.mark.parametrize(("alias", "name", "value"), ALIASES)
def test_an_alias_sets_the_field(alias: str, name: str, value: object) -> None:
    for body in (
        {"prompt": "a star", alias: value},
        {"prompt": "a star", "parameters": {alias: value}},
        {"instances": [{"prompt": "a star"}], "parameters": {alias: value}},
    ):
        (picture,) = decode(body, LIMITS).pictures

        assert getattr(picture.request, name) == value
        assert picture.request.parameters()[name] == value


def test_n_is_the_number_of_pictures() -> None:
    assert len(decode({"prompt": "a star", "n": 3}, LIMITS).pictures) == 3


@pytest.mark.parametrize(
    ("body", "first", "second"),
    [
        ({"steps": 4, "num_inference_steps": 4}, "steps", "num_inference_steps"),
        ({"steps": 4, "parameters": {"steps": 4}}, "steps", "parameters.steps"),
        (
            {"seed": 1, "n": 1, "parameters": {"num_images_per_prompt": 1}},
            "n",
            "parameters.num_images_per_prompt",
        ),
        (
            {"parameters": {"sampler": "euler", "scheduler": "euler"}},
            "parameters.sampler",
            "parameters.scheduler",
        ),
    ],
    ids=str,
)
def test_a_field_given_twice_is_an_error_that_names_both(
    body: dict[str, Any], first: str, second: str
) -> None:
    flat = refusal({"prompt": "a star"} | body)
    listed = refusal({"instances": [{"prompt": "a star"} | body]})

    assert f"is given twice, as `{first}` and `{second}`" in flat
    assert listed == f"instances[0]: {flat}"


def test_an_alias_in_the_shared_parameters_is_a_default_of_the_instances() -> None:
    body = {
        "instances": [{"prompt": "a star", "num_inference_steps": 9}, {"prompt": "a star"}],
        "parameters": {"steps": 5},
    }

    steps = [one.request.num_inference_steps for one in decode(body, LIMITS).pictures]
    assert steps == [9, 5]


def test_null_is_not_given() -> None:
    body = {"prompt": "a star", "steps": None, "num_inference_steps": 6}

    (picture,) = decode(body, LIMITS).pictures
    assert picture.request.num_inference_steps == 6


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"steps": 0}, "steps: 0 is not between 1 and 150"),
        ({"steps": "4"}, 'steps: must be an integer, not "4"'),
        ({"samplr": "euler"}, "samplr: unknown parameter; did you mean 'sampler'?"),
        ({"prompt": None}, "prompt: is missing"),
    ],
)
def test_errors_use_the_name_that_the_caller_wrote(body: dict[str, Any], error: str) -> None:
    assert refusal({"prompt": "a star"} | body) == error


def test_a_name_like_no_other_lists_all_names() -> None:
    error = refusal({"prompt": "a star", "xyz": 1})

    assert [field.name for field in FIELDS if f" {field.name}" not in error] == []


def test_an_error_about_a_seed_says_which_negative_seed_is_allowed() -> None:
    error = refusal({"prompt": "a star", "seed": -2})

    assert error == f"seed: -2 is not between 0 and {2**53 - 1}; -1 draws one"


def test_the_next_seeds_are_within_bounds_too() -> None:
    error = refusal({"prompt": "a star", "seed": 2**53 - 2, "n": 3})

    assert error == f"seed: {2**53} is not between 0 and {2**53 - 1}"


def test_the_server_takes_aliases_and_answers_with_names(client: httpx.Client) -> None:
    body = {"prompt": "a red star", "steps": 3, "cfg_scale": 1.5, "sampler": "euler", "n": 2}

    (first, second) = client.post(PREDICT, json=body).json()["predictions"]

    assert first["num_inference_steps"] == 3
    assert (first["guidance_scale"], first["scheduler"]) == (1.5, "euler")
    assert second["seed"] == first["seed"] + 1
    assert not {"steps", "cfg_scale", "sampler", "n"} & first.keys()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, False),
        ({"strength": 0.5}, False),
        ({"image": "iVBOR"}, True),
        ({"mask_image": "iVBOR"}, True),
        ({"controlnet": {"name": "canny", "image": "iVBOR"}}, True),
    ],
)
def test_a_body_with_a_picture_is_recognized_before_it_is_decoded(
    given: dict[str, Any], expected: bool
) -> None:
    """Pictures are decoded off the event loop."""
    assert parse({"prompt": "a circle", **given}, None, LIMITS).has_images is expected
