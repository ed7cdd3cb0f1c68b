"""Which engine runs a loaded pipeline: the step loop where it knows the family."""

from __future__ import annotations

from predictor.engine import Engine
from predictor.engine.capacity import measure_capacity, measure_whole_batch
from predictor.engine.step_loop import StepEngine
from predictor.engine.whole_batch import WholeBatchEngine
from predictor.errors import ModelLoadError
from predictor.pipelines.stepwise import denoiser_for, supports
from predictor.pipelines.whole import DiffusersPipeline
from predictor.settings import Settings


def open_engine(pipeline: DiffusersPipeline, settings: Settings) -> Engine:
    """Measure what the device can do, and start.

    Raises:
        ModelLoadError: the denoiser's own parts do not run.
    """
    try:
        if supports(pipeline.diffusers):
            return _open_step_engine(pipeline, settings)
        most = measure_whole_batch(pipeline, pipeline.warm_up_request(), settings.max_lanes // 2)
        return WholeBatchEngine(pipeline, most, settings.max_queue_length)
    except Exception as error:
        raise ModelLoadError(f"the warm-up steps failed: {error}") from error


def _open_step_engine(pipeline: DiffusersPipeline, settings: Settings) -> StepEngine:
    denoiser = denoiser_for(pipeline)
    request = pipeline.profile.default_request("warm-up")
    capacity = measure_capacity(denoiser, request, settings.max_lanes)
    return StepEngine(denoiser, capacity, settings.max_queue_length)
