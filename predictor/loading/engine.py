"""Starts the engine for a loaded pipeline: the step loop if it supports the family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from predictor.engine import Engine
from predictor.engine.capacity import Capacity, measure_capacity, measure_whole_batch, step_once
from predictor.engine.second_measurement import SecondMeasurement
from predictor.engine.step_loop import StepEngine
from predictor.engine.whole_batch import WholeBatchEngine
from predictor.errors import ModelLoadError
from predictor.loading.compilation import compile_denoiser
from predictor.pipelines.stepwise import denoiser_for, supports
from predictor.pipelines.whole import WARM_UP_STEPS, DiffusersPipeline
from predictor.requests import GenerationRequest
from predictor.settings import Settings


class Measured:
    """The measured capacity of each model, by folder; a model that is reloaded is not remeasured.

    Measurements are only right while no other model runs. For the same reason,
    ``is_measured_again`` (once the engine is idle) is only for a model that is alone.
    """

    def __init__(self, *, is_measured_again: bool = False) -> None:
        self.is_measured_again = is_measured_again
        self._capacities: dict[Path, Capacity] = {}
        self._batches: dict[Path, int] = {}

    def capacity(self, folder: Path, measure: Callable[[], Capacity]) -> Capacity:
        """The capacity of the step loop; a copy, as an engine shrinks its own."""
        if folder not in self._capacities:
            self._capacities[folder] = measure()
        return replace(self._capacities[folder])

    def batch(self, folder: Path, measure: Callable[[], int]) -> int:
        """The largest batch of a pipeline's own call."""
        if folder not in self._batches:
            self._batches[folder] = measure()
        return self._batches[folder]


def open_engine(
    pipeline: DiffusersPipeline, folder: Path, settings: Settings, measured: Measured
) -> Engine:
    """Start the engine, after measuring what ``measured`` lacks for the model in ``folder``.

    Raises:
        ModelLoadError: a warm-up step failed.
    """
    try:
        if supports(pipeline.diffusers):
            return _open_step_engine(pipeline, folder, settings, measured)
        return _open_whole_batch_engine(pipeline, folder, settings, measured)
    except ModelLoadError:
        raise
    except Exception as error:
        raise ModelLoadError(f"the warm-up steps failed: {error}") from error


def _open_step_engine(
    pipeline: DiffusersPipeline, folder: Path, settings: Settings, measured: Measured
) -> StepEngine:
    denoiser = denoiser_for(pipeline)
    runs = [partial(step_once, denoiser, lanes=lanes) for lanes in (2, 1)]
    compile_denoiser(pipeline, settings, runs)
    request = pipeline.profile.default_request("warm-up")
    measure = partial(measure_capacity, denoiser, request, settings.max_lanes)
    capacity = measured.capacity(folder, measure)
    second = SecondMeasurement(measure) if measured.is_measured_again else None
    return StepEngine(
        denoiser,
        capacity,
        settings.max_queue_length,
        second,
        max_queue_seconds=settings.queue_seconds,
        stall_seconds=settings.engine_stall_seconds,
    )


def _open_whole_batch_engine(
    pipeline: DiffusersPipeline, folder: Path, settings: Settings, measured: Measured
) -> WholeBatchEngine:
    compile_denoiser(
        pipeline, settings, [partial(_warm_up, pipeline, 2), partial(_warm_up, pipeline, 1)]
    )
    request = pipeline.profile.default_request("warm-up")
    request = replace(request, num_inference_steps=WARM_UP_STEPS)
    measure = partial(measure_whole_batch, pipeline, request, settings.max_lanes // 2)
    batch = measured.batch(folder, measure)
    second = SecondMeasurement(measure) if measured.is_measured_again else None
    return WholeBatchEngine(
        pipeline,
        batch,
        settings.max_queue_length,
        second,
        max_queue_seconds=settings.queue_seconds,
        stall_seconds=settings.engine_stall_seconds,
    )


def _warm_up(pipeline: DiffusersPipeline, pictures: int, request: GenerationRequest) -> None:
    """Generate pictures with guidance and without."""
    for guidance_scale in (request.guidance_scale, 0.0):
        alike = replace(request, guidance_scale=guidance_scale, num_inference_steps=WARM_UP_STEPS)
        pipeline.generate([alike] * pictures, lambda step, steps: None)
