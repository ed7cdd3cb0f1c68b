"""Draws pictures with the step loop and with diffusers' own ``__call__``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

from predictor.engine import Engine
from predictor.engine.capacity import Capacity
from predictor.engine.step_loop import StepEngine
from predictor.pipelines.stepwise import denoiser_for
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationRequest


@contextmanager
def engine_over(pipeline: DiffusersPipeline) -> Iterator[StepEngine]:
    """Return a step loop with 32 lanes for small pictures."""
    engine = StepEngine(denoiser_for(pipeline), Capacity(32, 16 * 16, 1.0), max_queue_length=128)
    try:
        yield engine
    finally:
        engine.close()


def submit_all(
    engine: Engine, *requests: GenerationRequest, return_exceptions: bool = False
) -> list[Any]:
    """Submit all requests at once and return the results, optionally including exceptions."""

    async def submit() -> list[Any]:
        return await asyncio.gather(
            *(engine.submit(one) for one in requests), return_exceptions=return_exceptions
        )

    return [getattr(result, "image", result) for result in asyncio.run(submit())]


def make(
    pipeline: DiffusersPipeline, *requests: GenerationRequest, return_exceptions: bool = False
) -> list[Any]:
    """Run ``submit_all`` on a new step loop for the pipeline."""
    with engine_over(pipeline) as engine:
        return submit_all(engine, *requests, return_exceptions=return_exceptions)


def own_call(pipeline: DiffusersPipeline, request: GenerationRequest) -> Image.Image:
    """Make one picture with the pipeline's own ``__call__``."""
    (result,) = pipeline.generate([request], lambda step, steps: None)
    assert result.image is not None
    return result.image
