"""Which engine runs a loaded pipeline: the step loop where it knows the family."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from predictor.engine import Engine
from predictor.engine.capacity import measure_capacity, measure_whole_batch, step_once
from predictor.engine.step_loop import StepEngine
from predictor.engine.whole_batch import WholeBatchEngine
from predictor.errors import ModelLoadError
from predictor.loading.compilation import compile_denoiser
from predictor.pipelines.stepwise import denoiser_for, supports
from predictor.pipelines.whole import WARM_UP_STEPS, DiffusersPipeline
from predictor.settings import Settings
from predictor.types import GenerationRequest


def open_engine(pipeline: DiffusersPipeline, settings: Settings) -> Engine:
    """Measure what the device can do, and start.

    Raises:
        ModelLoadError: the denoiser's own parts do not run.
    """
    try:
        if supports(pipeline.diffusers):
            return _open_step_engine(pipeline, settings)
        return _open_whole_batch_engine(pipeline, settings)
    except ModelLoadError:
        raise
    except Exception as error:
        raise ModelLoadError(f"the warm-up steps failed: {error}") from error


def _open_step_engine(pipeline: DiffusersPipeline, settings: Settings) -> StepEngine:
    denoiser = denoiser_for(pipeline)
    runs = [partial(step_once, denoiser, lanes=lanes) for lanes in (2, 1)]
    compile_denoiser(pipeline, settings, runs)
    request = pipeline.profile.default_request("warm-up")
    capacity = measure_capacity(denoiser, request, settings.max_lanes)
    return StepEngine(denoiser, capacity, settings.max_queue_length)


def _open_whole_batch_engine(pipeline: DiffusersPipeline, settings: Settings) -> WholeBatchEngine:
    compile_denoiser(pipeline, settings, [partial(_make, pipeline, 2), partial(_make, pipeline, 1)])
    most = measure_whole_batch(pipeline, pipeline.warm_up_request(), settings.max_lanes // 2)
    return WholeBatchEngine(pipeline, most, settings.max_queue_length)


def _make(pipeline: DiffusersPipeline, pictures: int, request: GenerationRequest) -> None:
    """Pictures with guidance, and without where that is left out by asking for none."""
    for guidance_scale in (request.guidance_scale, 0.0):
        alike = replace(request, guidance_scale=guidance_scale, num_inference_steps=WARM_UP_STEPS)
        pipeline.generate([alike] * pictures, lambda step, steps: None)
