"""Previews in the engine: which steps, within which time, and without an effect on pictures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler
from PIL import Image

from demo.shapes import Placement, Scene, draw, mask
from predictor.engine import Engine, Previews
from predictor.engine.composite import CompositeEngine
from predictor.engine.job import preview_steps
from predictor.pipelines.controlnet import ControlNet, ControlNets
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import (
    ControlNetInput,
    GenerationDefaults,
    GenerationRequest,
    GenerationResult,
    InputImage,
    ModelProfile,
    Preview,
)
from tests.predictor.drawing import engine_over
from tests.predictor.fake_denoiser import FakeDenoiser, FakeScheduler, request, run_story
from tests.predictor.fake_denoiser import Scene as Story
from tests.predictor.pictures import largest_difference
from tests.predictor.random_controlnets import build_controlnet
from tests.predictor.random_families import build_flux_schnell, build_sd2
from tests.predictor.random_pipelines import build_flux, build_sd3, build_sdxl
from tests.predictor.random_refiner import build_refiner
from tests.waiting import wait_until

PROFILE = ModelProfile("r1", GenerationDefaults(64, 64, 4, 5.0, "default"), 8, ("default",))
REQUEST = GenerationRequest("a red circle", "", 3, 64, 64, 2, 4.0, "default")
PICTURE = InputImage.of(draw(Scene("red", "circle", "blue"), Placement()))
MASK = InputImage.of(mask("square", Placement()))


@pytest.mark.parametrize(
    ("count", "steps", "expected"),
    [
        (0, 20, ()),
        (1, 20, (10,)),
        (3, 20, (5, 10, 15)),
        (3, 4, (1, 2, 3)),
        (8, 4, (1, 2, 3)),
        (3, 1, ()),
    ],
)
def test_previews_are_evenly_spaced_before_the_last_step(
    count: int, steps: int, expected: tuple[int, ...]
) -> None:
    assert preview_steps(count, steps) == expected


@pytest.fixture
def predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake schedulers whose prediction is the clean sample."""
    monkeypatch.setattr(FakeScheduler, "config", {"prediction_type": "sample"}, raising=False)


async def submit(story: Story, wanted: GenerationRequest, count: int) -> list[Any]:
    """What the caller gets, in order: previews as their index and step, then the result."""
    events: list[Any] = []
    previews = Previews(count, lambda one: events.append((one.index, one.step, one.steps)))
    try:
        events.append(await story.engine.submit(wanted, None, previews))
    except Exception as error:
        events.append(error)
    return events


class Decoder(FakeDenoiser):
    """Notes what it decodes: the fake predicts 1, to which its pictures add up step by step."""

    def __init__(self, preview_error: Exception | None = None) -> None:
        super().__init__()
        self._preview_error = preview_error

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        is_preview = bool((latents == 1).all())
        self.events.append("preview" if is_preview else "picture")
        if is_preview and self._preview_error is not None:
            raise self._preview_error
        return latents


@pytest.mark.usefixtures("predicts")
def test_a_lone_caller_gets_every_preview_before_the_picture() -> None:
    async def story(scene: Story) -> None:
        scene.run_free()
        *previews, result = await submit(scene, request("lone", 8), 3)
        assert previews == [(0, 2, 8), (1, 4, 8), (2, 6, 8)]
        assert isinstance(result, GenerationResult)

    assert run_story(story, Decoder()).events == [
        *(["step"] * 2 + ["preview"]) * 3,
        *("step", "step", "picture"),
    ]


class LateDecoder(Decoder):
    """Converts a preview late: when the picture is converted, or after a moment."""

    def __init__(self) -> None:
        super().__init__()
        self._is_picture_converted = threading.Event()

    def finish(self, image: torch.Tensor) -> Image.Image:
        if bool((image == 1).all()):
            self._is_picture_converted.wait(0.2)
        else:
            self._is_picture_converted.set()
        return super().finish(image)


@pytest.mark.usefixtures("predicts")
def test_a_picture_follows_its_previews_even_if_they_are_converted_late() -> None:
    async def story(scene: Story) -> None:
        scene.run_free()
        preview, result = await submit(scene, request("any", 4), 1)
        assert preview == (0, 2, 4)
        assert isinstance(result, GenerationResult)

    run_story(story, LateDecoder())


@pytest.mark.usefixtures("predicts")
def test_previews_of_many_callers_take_a_small_share_of_the_steps() -> None:
    """A decode takes two steps of a picture here, and every caller wants eight."""

    async def story(scene: Story) -> None:
        first = asyncio.create_task(submit(scene, request("first", 32), 8))
        await scene.stepping()
        others = [asyncio.create_task(submit(scene, request(f"{n}", 32), 8)) for n in range(7)]
        await scene.queue(request("none", 32))
        scene.run_free()
        received = await asyncio.gather(first, *others)
        assert all(isinstance(events[-1], GenerationResult) for events in received)
        previews = sum(len(events) - 1 for events in received)
        # A thirty-second of 9 x 32 steps, and four previews that were saved.
        assert 1 <= previews <= 9 * 32 / 32 / 2 + 4

    run_story(story)


@pytest.mark.usefixtures("predicts")
def test_a_finished_picture_does_not_wait_for_a_preview() -> None:
    async def story(scene: Story) -> None:
        short = asyncio.create_task(submit(scene, request("short", 2), 0))
        await scene.stepping()
        long = asyncio.create_task(submit(scene, request("long", 3), 2))
        await asyncio.to_thread(wait_until, lambda: sum(scene.engine.state[:2]) == 2)
        scene.run_free()
        await asyncio.gather(short, long)

    # The second pass ends the short picture, and is the first to be previewed of the long one.
    assert run_story(story, Decoder()).events[:3] == ["step", "step", "picture"]


@pytest.mark.usefixtures("predicts")
@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), torch.OutOfMemoryError("too large")], ids=["any", "memory"]
)
def test_a_preview_that_fails_is_dropped_alone(error: Exception) -> None:
    async def story(scene: Story) -> None:
        scene.run_free()
        (result,) = await submit(scene, request("any", 4), 1)
        assert isinstance(result, GenerationResult)
        assert scene.engine.state.out_of_memory == 0

    assert run_story(story, Decoder(error)).events.count("preview") == 1


def test_a_preview_of_nothing_is_dropped() -> None:
    """Without a prediction type, the fake's clean sample is NaN."""

    async def story(scene: Story) -> None:
        scene.run_free()
        (result,) = await submit(scene, request("any", 4), 2)
        assert isinstance(result, GenerationResult)

    run_story(story)


@pytest.mark.usefixtures("predicts")
def test_a_callers_error_at_a_preview_does_not_stop_the_engine() -> None:
    async def story(scene: Story) -> None:
        def fail(preview: Preview) -> None:
            raise RuntimeError("the loop is closed")

        scene.run_free()
        result = await scene.engine.submit(request("any", 4), None, Previews(2, fail))
        assert result.image is not None

    run_story(story)


@pytest.mark.usefixtures("predicts")
def test_a_caller_who_leaves_gets_no_more_previews() -> None:
    shown: list[Preview] = []

    async def story(scene: Story) -> None:
        leaving = asyncio.create_task(
            scene.engine.submit(request("leaving", 50), None, Previews(8, shown.append))
        )
        await scene.stepping()
        leaving.cancel()
        await asyncio.wait([leaving])
        scene.run_free()
        assert (await scene.engine.submit(request("next", 2))).image is not None

    run_story(story)
    assert shown == []


def trailing(build: Callable[[], DiffusionPipeline]) -> Callable[[], DiffusersPipeline]:
    """A pipeline whose runs of one and of two steps begin at the same noise level."""

    def make() -> DiffusersPipeline:
        pipeline: Any = build()
        if hasattr(pipeline, "unet"):
            pipeline.scheduler = EulerDiscreteScheduler.from_config(
                pipeline.scheduler.config, timestep_spacing="trailing"
            )
        return DiffusersPipeline(pipeline, PROFILE)

    return make


def controlled() -> DiffusersPipeline:
    pipeline: Any = trailing(build_sd2)().diffusers
    network = ControlNet(build_controlnet(pipeline, 7), pipeline.vae_scale_factor)
    return DiffusersPipeline(pipeline, PROFILE, controlnets=ControlNets({"canny": network}))


FAMILIES: dict[str, tuple[Callable[[], DiffusersPipeline], GenerationRequest]] = {
    "Stable Diffusion": (trailing(build_sd2), REQUEST),
    "ControlNet": (
        controlled,
        replace(REQUEST, controlnet=ControlNetInput("canny", PICTURE, 0.7)),
    ),
    "SDXL": (trailing(build_sdxl), REQUEST),
    "Stable Diffusion 3": (trailing(build_sd3), REQUEST),
    "FLUX": (trailing(build_flux), REQUEST),
    "FLUX without guidance": (trailing(build_flux_schnell), REQUEST),
}


def previewed(
    engine: Engine, wanted: GenerationRequest, count: int
) -> tuple[Image.Image, list[Preview]]:
    shown: list[Preview] = []
    result = asyncio.run(engine.submit(wanted, None, Previews(count, shown.append)))
    assert result.image is not None
    return result.image, shown


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' use of NumPy
@pytest.mark.parametrize("family", FAMILIES)
def test_the_preview_of_the_first_step_is_the_picture_of_one_step(family: str) -> None:
    build, wanted = FAMILIES[family]
    with engine_over(build()) as engine:
        without, none = previewed(engine, wanted, 0)
        picture, shown = previewed(engine, wanted, 3)
        one_step, _ = previewed(engine, replace(wanted, num_inference_steps=1), 0)
        other, _ = previewed(engine, replace(wanted, num_inference_steps=1, seed=9), 0)

    (preview,) = shown
    assert none == []
    assert (preview.index, preview.step, preview.steps) == (0, 1, 2)
    assert largest_difference(preview.image, one_step) <= 1
    assert largest_difference(other, one_step) > 10
    # A preview changes nothing.
    assert picture.tobytes() == without.tobytes()


def test_the_base_and_the_refiner_are_previewed() -> None:
    base: Any = build_sdxl()
    refiner = DiffusersPipeline(build_refiner(base), PROFILE)
    wanted = replace(REQUEST, num_inference_steps=8, denoising_end=0.5, scheduler="euler")
    with engine_over(DiffusersPipeline(base, PROFILE, refiner=refiner)) as engine:
        without, _ = previewed(engine, wanted, 0)
        picture, shown = previewed(engine, wanted, 7)

    assert [preview.step for preview in shown] == [*range(1, 8)]
    distances = [distance(preview.image, picture) for preview in shown]
    assert distances[-1] < distances[0]
    assert picture.tobytes() == without.tobytes()


def distance(left: Image.Image, right: Image.Image) -> float:
    return float(np.abs(np.asarray(left, float) - np.asarray(right, float)).mean())


def test_a_preview_of_an_inpainted_picture_keeps_the_pixels_outside_the_mask() -> None:
    wanted = replace(REQUEST, image=PICTURE, mask_image=MASK, strength=1.0, scheduler="ddim")
    with engine_over(DiffusersPipeline(build_sd2(), PROFILE)) as engine:
        composite = CompositeEngine(engine)
        without, _ = previewed(composite, wanted, 0)
        picture, shown = previewed(composite, wanted, 1)

    (preview,) = shown
    kept = np.asarray(MASK.image) == 0
    assert kept.any()
    assert (np.asarray(preview.image)[kept] == np.asarray(PICTURE.image)[kept]).all()
    assert largest_difference(preview.image, PICTURE.image) > 10
    assert picture.tobytes() == without.tobytes()
