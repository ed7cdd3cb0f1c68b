"""The stages of a picture: measured by the engines and the safety layers, in order and complete."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from diffusers import DiffusionPipeline

from predictor.engine.whole_batch import WholeBatchEngine
from predictor.pipelines.schedulers import OWN
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationDefaults, GenerationRequest, ModelProfile
from predictor.safety.layers import Layers
from predictor.safety.review import ReviewedEngine
from predictor.stages import StageClock, StageTime
from tests.predictor.fake_denoiser import Scene, request, run_story
from tests.predictor.random_families import build_pixart
from tests.predictor.random_pipelines import build_flux, build_sd3
from tests.predictor.test_reviewed_engine import REQUEST, DrawnEngine, Layer


def names(stages: Sequence[StageTime]) -> list[str]:
    return [stage.stage for stage in stages]


def gaps(stages: Sequence[StageTime]) -> list[float]:
    """The seconds between the end of each stage and the start of the next one."""
    return [after.started - before.started - before.seconds for before, after in pairwise(stages)]


def test_a_stage_that_is_entered_again_continues() -> None:
    clock = StageClock("queue", time.perf_counter())
    for stage in ("queue", "text", "text", "denoise"):
        clock.enter(stage)  # type: ignore[arg-type]

    assert names(clock.stages()) == ["queue", "text", "denoise"]


def test_the_step_loop_measures_every_stage_of_a_picture() -> None:
    async def story(scene: Scene) -> None:
        submitted = time.perf_counter()
        (pending,) = await scene.submit_all(request("a star", 2))
        stepping = time.perf_counter()
        scene.denoiser.gate.release()
        await scene.stepping()
        held = time.perf_counter() - stepping
        scene.run_free()
        result = await pending
        total = time.perf_counter() - submitted

        stages = result.stages
        assert names(stages) == ["queue", "prepare", "text", "denoise", "decode"]
        # The first step was held until the second one began.
        assert stages[3].seconds >= held
        assert sum(stage.seconds for stage in stages) <= total
        assert all(0 <= gap < 0.005 for gap in gaps(stages))

    run_story(story)


@pytest.mark.parametrize("build", [build_sd3, build_flux, build_pixart])
def test_a_pipelines_own_call_is_divided_into_stages(
    build: Callable[[], DiffusionPipeline],
) -> None:
    built = build()
    built.set_progress_bar_config(disable=True)
    defaults = GenerationDefaults(64, 64, 3, 4.0, OWN)
    pipeline = DiffusersPipeline(built, ModelProfile("r1", defaults, 8, (OWN,)))
    engine = WholeBatchEngine(pipeline, 2, max_queue_length=4)

    async def generate() -> list[tuple[StageTime, ...]]:
        wanted = GenerationRequest("a red circle", "", 3, 64, 64, 3, 4.0, OWN)
        results = [await engine.submit(wanted) for _ in range(2)]
        return [result.stages for result in results]

    try:
        for stages in asyncio.run(generate()):
            assert names(stages) == ["queue", "prepare", "text", "denoise", "decode"]
            assert all(stage.seconds > 0 for stage in stages)
            assert all(0 <= gap < 0.005 for gap in gaps(stages))
    finally:
        engine.close()
    assert "encode_prompt" not in vars(built)


def test_the_review_is_a_stage_if_layers_look_at_the_picture() -> None:
    checked = ReviewedEngine(DrawnEngine(), Layers((), (Layer("checker", "block", True),)))
    unchecked = ReviewedEngine(DrawnEngine(), Layers((), ()))

    assert names(asyncio.run(checked.submit(REQUEST)).stages) == ["review"]
    assert asyncio.run(unchecked.submit(REQUEST)).stages == ()
