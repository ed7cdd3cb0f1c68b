"""What the safety layers do to pictures and prompts, with a fake engine."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from predictor.engine import Admission, EngineState, Previews, StepListener
from predictor.errors import GenerationFailedError, RefusedBySafetyError
from predictor.protocol import Call, EncodedResponse, Picture
from predictor.requests import (
    GenerationRequest,
    GenerationResult,
    Preview,
    SafetyAction,
    SafetyVerdict,
)
from predictor.safety.block_list import BlockList
from predictor.safety.layers import Layers, strictest
from predictor.safety.review import ReviewedEngine, blurred
from tests.predictor.encoding import encode

REQUEST = GenerationRequest("a red star", "", 3, 64, 64, 4, 2.0, "unipc")
NOISE = np.random.default_rng(0)
PICTURE = Image.fromarray(NOISE.integers(0, 256, (64, 64, 3), dtype=np.uint8))


class DrawnEngine:
    """Returns the same picture for every request."""

    def __init__(self) -> None:
        self.submitted: list[GenerationRequest] = []
        self.is_closed = False

    @property
    def state(self) -> EngineState:
        return EngineState(0, 0, 2, 0)

    @property
    def admission(self) -> Admission:
        raise AssertionError("not used here")

    async def submit(
        self,
        request: GenerationRequest,
        on_step: StepListener | None = None,
        previews: Previews | None = None,
    ) -> GenerationResult:
        self.submitted.append(request)
        if previews is not None:
            previews.on_preview(Preview(PICTURE, 0, 1, 2))
        return GenerationResult(request, PICTURE, 1.5, warnings=("mind this",))

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Layer:
    """Fires, does not fire, or raises."""

    name: str
    action: SafetyAction
    outcome: bool | Exception

    def fires_at(self, subject: object) -> bool:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def reviewed(
    *pictures: Layer, prompts: Sequence[Layer] = ()
) -> tuple[GenerationResult, ReviewedEngine, DrawnEngine]:
    engine = DrawnEngine()
    over = ReviewedEngine(engine, Layers(tuple(prompts), pictures))
    try:
        return asyncio.run(over.submit(REQUEST)), over, engine
    finally:
        over.close()


def test_without_layers_the_result_is_the_engines_own() -> None:
    result, over, engine = reviewed()

    assert result == GenerationResult(REQUEST, PICTURE, 1.5, warnings=("mind this",))
    assert over.state == EngineState(0, 0, 2, 0, {})
    assert engine.is_closed


@pytest.mark.parametrize("action", ["flag", "blur", "block"])
@pytest.mark.parametrize("name", ["safety_checker", "safety_classifier"])
def test_what_a_picture_layer_does(name: str, action: SafetyAction) -> None:
    result, over, _ = reviewed(Layer(name, action, True))

    shown = {"flag": PICTURE, "blur": blurred(PICTURE), "block": None}
    assert result.image == shown[action]
    assert result.safety == (SafetyVerdict(name, action),)
    assert (result.seconds, result.warnings) == (1.5, ("mind this",))
    assert over.state.safety == {(name, action): 1, (name, "pass"): 0, (name, "error"): 0}


@pytest.mark.parametrize("action", ["flag", "blur", "block"])
def test_what_the_block_list_does(action: SafetyAction) -> None:
    result, _, engine = reviewed(prompts=[Layer("block_list", action, True)])

    shown = {"flag": PICTURE, "blur": blurred(PICTURE), "block": None}
    assert result.image == shown[action]
    assert result.safety == (SafetyVerdict("block_list", action),)
    # A blocked prompt never reaches the engine.
    assert len(engine.submitted) == (action != "block")


@pytest.mark.parametrize("prompt", ["some go(re:1.2)", "gore(ous:1.2)", "(go[re])"])
def test_brackets_do_not_hide_a_word_of_the_block_list(prompt: str, tmp_path: Path) -> None:
    file = tmp_path / "terms"
    file.write_text("gore")
    layers = Layers((BlockList("block", file),), ())
    over = ReviewedEngine(DrawnEngine(), layers)
    request = replace(REQUEST, prompt=prompt, prompt_syntax="weighted")

    async def submit() -> list[GenerationResult]:
        return [await over.submit(one) for one in (request, replace(request, prompt="(go:2) re"))]

    try:
        blocked, passed = asyncio.run(submit())
    finally:
        over.close()

    assert (blocked.image, passed.image) == (None, PICTURE)
    # Each prompt counts once.
    counts = over.state.safety
    assert (counts["block_list", "block"], counts["block_list", "pass"]) == (1, 1)


@pytest.mark.parametrize("fires", [True, False])
@pytest.mark.parametrize("action", ["flag", "blur", "block"])
def test_previews_never_pass_a_layer_that_would_review_the_picture(
    action: SafetyAction, fires: bool
) -> None:
    """An early preview shows less than the picture, and no layer is made to judge it."""
    shown = previews_of(Layers((), (Layer("safety_checker", action, fires),)))

    assert shown == []


@pytest.mark.parametrize(("fires", "previews"), [(True, 0), (False, 1)])
def test_previews_do_not_show_what_the_block_list_found(fires: bool, previews: int) -> None:
    shown = previews_of(Layers((Layer("block_list", "blur", fires),), ()))

    assert len(shown) == previews


def test_without_layers_previews_pass() -> None:
    assert [preview.image for preview in previews_of(Layers((), ()))] == [PICTURE]


def previews_of(layers: Layers) -> list[Preview]:
    shown: list[Preview] = []
    over = ReviewedEngine(DrawnEngine(), layers)
    try:
        asyncio.run(over.submit(REQUEST, None, Previews(2, shown.append)))
    finally:
        over.close()
    return shown


def test_a_layer_that_finds_nothing_lets_the_picture_through() -> None:
    result, over, _ = reviewed(Layer("safety_checker", "block", False))

    assert (result.image, result.safety) == (PICTURE, ())
    assert over.state.safety["safety_checker", "pass"] == 1
    assert over.state.safety["safety_checker", "block"] == 0


def test_the_strictest_action_counts_and_every_layer_is_named() -> None:
    result, _, _ = reviewed(
        Layer("safety_checker", "block", True),
        Layer("safety_classifier", "blur", True),
        prompts=[Layer("block_list", "flag", True)],
    )

    assert result.image is None
    assert [(one.layer, one.action) for one in result.safety] == [
        ("block_list", "flag"),
        ("safety_checker", "block"),
        ("safety_classifier", "blur"),
    ]


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ([], None),
        (["flag"], "flag"),
        (["blur", "flag"], "blur"),
        (["flag", "block", "blur"], "block"),
    ],
)
def test_actions_are_ordered(actions: list[SafetyAction], expected: SafetyAction | None) -> None:
    assert strictest(SafetyVerdict("any", action) for action in actions) == expected


@pytest.mark.parametrize("where", ["prompts", "pictures"])
def test_a_layer_that_raises_fails_the_picture(where: str) -> None:
    broken = Layer("broken", "flag", RuntimeError("a secret prompt"))
    layers = Layers((broken,), ()) if where == "prompts" else Layers((), (broken,))
    engine = DrawnEngine()
    over = ReviewedEngine(engine, layers)
    try:
        with pytest.raises(
            GenerationFailedError, match="broken failed, so no picture is shown"
        ) as caught:
            asyncio.run(over.submit(REQUEST))
    finally:
        over.close()

    assert "secret" not in str(caught.value)
    assert over.state.safety["broken", "error"] == 1
    assert len(engine.submitted) == (where == "pictures")


@pytest.mark.parametrize("size", [(64, 64), (1024, 512), (512, 2048)])
def test_a_blurred_picture_keeps_only_a_few_means(size: tuple[int, int]) -> None:
    noise = NOISE.integers(0, 256, (*reversed(size), 3), dtype=np.uint8)
    # Different details with the same means: each of the 8 blocks along a side is upside down.
    field = max(size) // 8
    rows = noise.reshape(-1, field, *noise.shape[1:])
    other = rows[:, ::-1].reshape(noise.shape)

    first, second = (
        np.asarray(blurred(Image.fromarray(np.ascontiguousarray(pixels))), dtype=np.int16)
        for pixels in (noise, other)
    )

    assert (first.shape[1], first.shape[0]) == size
    assert np.abs(first - second).max() == 0
    # No edge is left: neighbours differ by little; in the original they differ by 85 on average.
    assert max(np.abs(np.diff(first, axis=axis)).max() for axis in (0, 1)) < 600 / field


def test_a_blurred_picture_is_returned_and_marked() -> None:
    result, _, _ = reviewed(Layer("safety_checker", "blur", True))
    bare, as_json = (answer(result, as_json=as_json) for as_json in (False, True))

    assert isinstance(bare.body, bytes)
    picture = Image.open(io.BytesIO(bare.body))
    assert picture.tobytes() == blurred(PICTURE).tobytes()
    assert picture.info["prompt"] == REQUEST.prompt
    assert bare.headers["x-safety"] == "safety_checker=blur"
    (prediction,) = json.loads(as_json.body)["predictions"]
    assert base64.b64decode(prediction["image"]["b64"]) == bare.body
    assert prediction["safety"] == [{"layer": "safety_checker", "action": "blur"}]


def test_all_layers_that_block_are_named() -> None:
    layers = [Layer(name, "block", True) for name in ("safety_checker", "safety_classifier")]
    result, _, _ = reviewed(*layers)

    with pytest.raises(RefusedBySafetyError) as caught:
        answer(result, as_json=False)
    assert str(caught.value) == "picture: refused by safety_checker and safety_classifier"


def test_without_a_verdict_the_response_does_not_mention_safety() -> None:
    result, _, _ = reviewed(Layer("safety_checker", "block", False))
    answered = answer(result, as_json=True)

    assert "safety" not in json.loads(answered.body)["predictions"][0]
    assert "x-safety" not in answered.headers


def answer(result: GenerationResult, *, as_json: bool) -> EncodedResponse:
    call = Call((Picture(result.request, "png"),), as_json)
    return encode(call, [result])
