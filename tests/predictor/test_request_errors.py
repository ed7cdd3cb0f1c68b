"""Errors of a request: in the caller's words, with values as JSON and the place of each name."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import pkgutil
import re
from typing import Any

import pytest

import predictor.protocol
import predictor.requests
from predictor.errors import InvalidRequestError
from predictor.requests import GenerationDefaults, Limits, ModelProfile
from predictor.requests.fields import FIELDS
from predictor.settings import Settings
from tests.predictor.decoding import decode

PROFILE = ModelProfile(
    "r1",
    GenerationDefaults(64, 64, 4, 2.0, "unipc"),
    8,
    ("unipc",),
    tasks=("text-to-image", "image-to-image", "inpainting"),
    has_refiner=True,
    max_clip_skip=2,
)
LIMITS = Limits(Settings(), PROFILE)
VALUES = (None, True, 7, -1.5, 10**19, "it's", [], [None], [{}], {}, {"b64": None}, {"x": "it's"})
NAMES = [name for field in FIELDS for name in (field.name, *field.aliases)]


def refusal(body: dict[str, Any]) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        decode(body, LIMITS)
    return str(caught.value)


def class_names() -> set[str]:
    """The classes of the packages that read a request, and of the models built at run time."""
    names = set()
    for package in (predictor.requests, predictor.protocol):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            members = vars(importlib.import_module(module.name)).values()
            names |= {member.__name__ for member in members if inspect.isclass(member)}
    return names


def bodies() -> list[dict[str, Any]]:
    """Each value of each type for each name, in each place of a body."""
    entries = [{name: value} for name, value in itertools.product(NAMES, VALUES)]
    for value in VALUES:
        entries += [
            {"controlnet": {"name": "x", "image": "x", "scale": 1} | {name: value}}
            for name in ("name", "image", "scale", "x")
        ]
        entries += [{"adapters": [{"name": "x", name: value}]} for name in ("name", "scale", "x")]
        entries += [{"parameters": value}, {"instances": value}]
    prompt = {"prompt": "a star"}
    found = []
    for entry in entries:
        found += [
            prompt | entry,
            {"parameters": entry} | ({} if "prompt" in entry else prompt),
            {"instances": [prompt | entry]},
            {"instances": [prompt], "parameters": entry},
            {"instances": [prompt]} | entry,
        ]
    return found


def test_no_error_shows_a_class_or_a_python_literal() -> None:
    classes = class_names()
    assert {"Document", "Parameters", "Instance", "AdapterField"} <= classes
    python = re.compile(r"\b(None|True|False|dict|dictionary|NoneType|int|str|input)\b|\{'|\['|: '")
    refused = []

    for body in bodies():
        try:
            decode(body, LIMITS)
        except InvalidRequestError as error:
            refused.append(str(error))

    assert len(refused) > 1000
    words = {error: set(re.findall(r"[A-Za-z_]+", error)) for error in refused}
    assert [error for error in refused if words[error] & classes or python.search(error)] == []
    assert [error for error in refused if "a valid value" in error] == []


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"parameters": None}, "parameters: must be a JSON object, not null"),
        ({"adapters": {}}, "adapters: must be a list, not {}"),
        ({"controlnet": True}, "controlnet: must be a JSON object, not true"),
        ({"image": {"base64": "xx"}}, 'image: must be a string, not {"base64": "xx"}'),
        ({"seed": 1.5}, "seed: must be an integer, not 1.5"),
        ({"strength": "1"}, 'strength: must be a number, not "1"'),
        ({"output_format": 3}, "output_format: must be one of png, jpeg, webp, not 3"),
        ({"scheduler": "dpm"}, 'scheduler: "dpm" is not one of unipc'),
    ],
)
def test_a_wrong_value_is_shown_as_json(body: dict[str, Any], error: str) -> None:
    assert refusal({"prompt": "a star"} | body) == error


@pytest.mark.parametrize("value", ["x" * 10**6, json.loads("[" * 900 + "]" * 900)])
def test_a_large_value_is_shortened(value: object) -> None:
    assert len(refusal({"prompt": "a star", "seed": value})) < 130
    assert len(refusal({"prompt": "a star", "sampler": value})) < 130


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"instances": [{"prompt": "x"}], "seed": 1}, "seed: put it under `parameters` or into"),
        ({"instances": [{"prompt": "x"}], "steps": 1}, "steps: put it under `parameters` or into"),
        ({"instances": [{}], "prompt": "x"}, "prompt: put it into an instance"),
        (
            {"instances": [{"prompt": "x"}], "parameters": {"prompt": "x"}},
            "parameters.prompt: put it into an instance",
        ),
        ({"parameters": {"prompt": "x"}}, "parameters.prompt: put `prompt` outside `parameters`"),
        (
            {"prompt": "x", "controlnet": {"name": "x", "image": "x", "seed": 1}},
            "controlnet.seed: put `seed` outside `controlnet`",
        ),
        (
            {"instances": [{"prompt": "x"}], "sede": 1},
            "sede: unknown parameter; did you mean 'seed'? Put it under `parameters` or into",
        ),
        (
            {"prompt": "x", "controlnet": {"name": "x", "image": "x", "sclae": 1}},
            "controlnet.sclae: unknown parameter; did you mean 'scale'?",
        ),
        (
            {"prompt": "x", "adapters": [{"name": "x", "wieght": 1}]},
            "adapters[0].wieght: unknown parameter; known are name, scale",
        ),
        ({"promt": "x"}, "promt: unknown parameter; did you mean 'prompt'?"),
    ],
)
def test_a_name_in_the_wrong_place_gets_the_right_place(body: dict[str, Any], error: str) -> None:
    assert refusal(body).startswith(error)


def test_the_list_of_known_parameters_has_their_aliases() -> None:
    error = refusal({"prompt": "x", "colour": "red"})

    assert error.startswith("colour: unknown parameter; known are ")
    for named in ("num_inference_steps (steps)", "guidance_scale (cfg_scale)", "seed, "):
        assert named in error


@pytest.mark.parametrize(
    "parameters", [{"steps": "9"}, {"steps": 999}, {"cfg_scale": 99}, {"n": 99}]
)
def test_an_alias_is_named_as_written(parameters: dict[str, Any]) -> None:
    (alias,) = parameters

    assert refusal({"prompt": "x"} | parameters).startswith(f"{alias}: ")
    assert f"{alias}: " in refusal({"prompt": "x", "parameters": parameters})
    assert f"{alias}: " in refusal({"instances": [{"prompt": "x"} | parameters]})
    assert f"{alias}: " in refusal({"instances": [{"prompt": "x"}], "parameters": parameters})


def test_an_instance_names_its_own_spelling() -> None:
    shared = {"steps": 4}
    body = {"instances": [{"prompt": "x", "num_inference_steps": 999}], "parameters": shared}

    assert refusal(body).startswith("instances[0].num_inference_steps: ")
