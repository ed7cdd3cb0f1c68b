"""The weighted prompt syntax: brackets, numbers, breaks and escapes."""

from __future__ import annotations

import math

import pytest

from predictor.errors import InvalidRequestError
from predictor.requests import GenerationDefaults, Limits, ModelProfile
from predictor.requests.limits import MAX_WEIGHT
from predictor.requests.prompt_syntax import sections, text_of
from predictor.settings import Settings
from tests.predictor.decoding import decode


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a red circle", [("a red circle", 1)]),
        ("a (red:1.3) circle", [("a ", 1), ("red", 1.3), (" circle", 1)]),
        ("a (red) [blue]", [("a ", 1), ("red", 1.1), (" ", 1), ("blue", 1 / 1.1)]),
        ("((red)) ((red:2))", [("red", 1.21), (" ", 1), ("red", 2.2)]),
        ("(red, (big:0.5): 1.5 )", [("red, ", 1.5), ("big", 0.75)]),
        ("(red:.5) (blue:-1)", [("red", 0.5), (" ", 1), ("blue", -1)]),
        (r"a \(red\) \[blue\] \\", [("a (red) [blue] \\", 1)]),
        (r"(red \(deep\):1.5)", [("red (deep)", 1.5)]),
        ("a smile :) and :1.5)", [("a smile :) and :1.5)", 1)]),
        ("(red:1e5)", [("red:1e5", 1.1)]),
        ("[red:blue:0.5]", [("red:blue:0.5", 1 / 1.1)]),
        ("a (red, big", [("a ", 1), ("red, big", 1.1)]),
        ("(a [b) c", [("a ", 1.1), ("b c", 1)]),
        ("a] b)", [("a] b)", 1)]),
        ("(foo:1.0)bar", [("foobar", 1)]),
        ("", []),
        ("()", []),
    ],
)
def test_the_weight_of_each_part(prompt: str, parts: list[tuple[str, float]]) -> None:
    (found,) = sections(prompt)

    assert [part.text for part in found] == [text for text, _ in parts]
    assert [part.weight for part in found] == pytest.approx([weight for _, weight in parts])


def test_break_separates_sections_and_keeps_the_weight() -> None:
    found = sections("red BREAK (blue BREAK green:2) BREAKFAST")

    assert [[tuple(part) for part in section] for section in found] == [
        [("red", 1)],
        [("blue", 2)],
        [("green", 2), (" BREAKFAST", 1)],
    ]


def test_the_text_is_what_the_encoders_read() -> None:
    assert text_of(r"(go[re]:1.3) BREAK \(x\)") == "gore (x)"


def profile(*, reads_weighted_prompts: bool) -> ModelProfile:
    defaults = GenerationDefaults(64, 64, 4, 2.0, "default")
    return ModelProfile(
        "r1", defaults, 8, ("default",), reads_weighted_prompts=reads_weighted_prompts
    )


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
@pytest.mark.parametrize("weight", ["10.5", "-11", "9" * 400])
def test_a_weight_out_of_bounds_is_refused(field: str, weight: str) -> None:
    limits = Limits(Settings(), profile(reads_weighted_prompts=True))
    body = {"prompt": "a star", field: f"a (red:{weight}) star"}

    with pytest.raises(InvalidRequestError) as refused:
        decode(body | {"prompt_syntax": "weighted"}, limits)
    decode(body, limits)
    decode(body | {"prompt_syntax": "plain"}, limits)

    assert refused.value.field == field
    assert refused.value.reason == (
        f'the weight {float(weight):g} of "red" is not between -{MAX_WEIGHT} and {MAX_WEIGHT}'
    )


def test_the_largest_weight_and_many_brackets_are_accepted_or_refused_by_their_product() -> None:
    limits = Limits(Settings(), profile(reads_weighted_prompts=True))
    most = int(math.log(MAX_WEIGHT, 1.1))

    def check(depth: int) -> None:
        decode({"prompt": "(" * depth + "red", "prompt_syntax": "weighted"}, limits)

    check(most)
    with pytest.raises(InvalidRequestError, match="prompt: the weight"):
        check(most + 1)


def test_a_model_without_clip_alone_refuses_it_and_accepts_plain() -> None:
    limits = Limits(Settings(), profile(reads_weighted_prompts=False))

    with pytest.raises(InvalidRequestError, match="prompt_syntax: only Stable Diffusion"):
        decode({"prompt": "a star", "prompt_syntax": "weighted"}, limits)
    decode({"prompt": "a star", "prompt_syntax": "plain"}, limits)
