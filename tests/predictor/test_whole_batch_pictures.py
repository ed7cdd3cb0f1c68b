"""Whole batches over real pipelines: sharing a call does not change a picture."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from diffusers import DiffusionPipeline
from PIL import Image

from predictor.engine.whole_batch import WholeBatchEngine
from predictor.pipelines.schedulers import OWN
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationDefaults, GenerationRequest, ModelProfile
from predictor.settings import Settings
from tests.predictor.checkpoints import measured_engine
from tests.predictor.pictures import largest_difference
from tests.predictor.random_families import build_pixart
from tests.predictor.random_pipelines import build_flux, build_sd3

REQUEST = GenerationRequest("a red circle", "", 3, 128, 64, 3, 4.0, OWN)
OTHERS = [
    replace(REQUEST, prompt="a blue star on a white background", seed=4),
    replace(REQUEST, prompt="a green square", seed=5),
]


@pytest.fixture(scope="module", params=[build_sd3, build_flux, build_pixart])
def pipeline(request: pytest.FixtureRequest) -> DiffusersPipeline:
    return wrapped(request.param)


def wrapped(build: Callable[[], DiffusionPipeline]) -> DiffusersPipeline:
    built = build()
    built.set_progress_bar_config(disable=True)
    defaults = GenerationDefaults(128, 128, 3, 4.0, OWN)
    return DiffusersPipeline(built, ModelProfile("r1", defaults, 8, (OWN,)))


def make(pipeline: DiffusersPipeline, *requests: GenerationRequest) -> list[Image.Image]:
    results = pipeline.generate(requests, lambda step, steps: None)
    assert [result.request for result in results] == list(requests)
    return [result.image for result in results]


def test_a_picture_in_a_batch_equals_the_one_made_alone(pipeline: DiffusersPipeline) -> None:
    (alone,) = make(pipeline, REQUEST)
    together = make(pipeline, OTHERS[0], REQUEST, OTHERS[1])

    assert largest_difference(alone, together[1]) <= 2
    assert largest_difference(together[0], together[2]) > 2


def test_the_engine_is_chosen_and_its_batch_measured() -> None:
    pipeline = wrapped(build_pixart)
    engine = measured_engine(pipeline, Settings(max_lanes=4))
    try:
        assert isinstance(engine, WholeBatchEngine)
        result = asyncio.run(engine.submit(REQUEST))
    finally:
        engine.close()

    assert result.image.size == (128, 64)
