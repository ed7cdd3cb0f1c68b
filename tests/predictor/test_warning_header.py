"""``x-warning``: every warning arrives, within the length of a header and its characters."""

from __future__ import annotations

import json
from collections.abc import Sequence

import httpx
import pytest
from PIL import Image

from predictor.protocol import Call, Picture
from predictor.requests import GenerationRequest, GenerationResult
from tests.predictor.encoding import encode
from tests.serving import PREDICT

REQUEST = GenerationRequest("a star", "", 1, 64, 64, 1, 1.0, "unipc")


def header(*warnings: Sequence[str]) -> str:
    """The header of an answer with one picture for each tuple of warnings."""
    results = [
        GenerationResult(REQUEST, Image.new("RGB", (8, 8)), 1.0, warnings=tuple(own))
        for own in warnings
    ]
    call = Call(tuple(Picture(REQUEST, "png") for _ in warnings), as_json=True)
    return encode(call, results, embed_metadata=False).headers["x-warning"]


def test_short_warnings_are_whole_and_once() -> None:
    assert header(["one", "two"], ["two", "three"]) == "one; two; three"


def test_a_long_warning_leaves_room_for_the_others() -> None:
    value = header(["first " + "x" * 5000, "second " + "y" * 300, "third"])

    first, second, third = value.split("; ")
    assert len(value) <= 1024
    assert first.startswith("first xxx")
    assert first.endswith("x...")
    assert len(first) > 600
    assert second == "second " + "y" * 300
    assert third == "third"


def test_long_warnings_share_the_room() -> None:
    value = header(*([f"{index} " + "x" * 5000] for index in range(20)))

    assert len(value) <= 1024
    assert [one.split()[0] for one in value.split("; ")] == [str(index) for index in range(20)]


@pytest.mark.parametrize("text", ["\N{GRINNING FACE}", "é", "\\", "\0", "\x7f", '"\\'])
def test_a_cut_never_splits_an_escape(text: str) -> None:
    for offset in range(12):
        value = header(["." * offset + text * 2000])

        assert len(value) <= 1024
        assert all(" " <= character <= "~" for character in value)
        whole = value.removesuffix("...").removeprefix("." * offset).replace('"', '\\"')
        assert set(json.loads(f'"{whole}"')) == set(text)


def test_the_warnings_of_both_prompts_arrive(client: httpx.Client) -> None:
    words = " red" * 1000
    body = {"prompt": "a" + words, "negative_prompt": "a" + words, "steps": 1}

    value = client.post(PREDICT, json=body).headers["x-warning"]
    (prediction,) = client.post(PREDICT, json=body, headers={"accept": "application/json"}).json()[
        "predictions"
    ]

    first, second = value.split("; negative_prompt")
    assert first.startswith("prompt is longer than the text encoder reads; dropped: 'red red")
    assert second.startswith(" is longer than the text encoder reads; dropped: 'red red")
    assert [one.split()[0] for one in prediction["warnings"]] == ["prompt", "negative_prompt"]
