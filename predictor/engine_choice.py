"""Which engine runs a loaded pipeline: the step loop for the families it knows, else the serial."""

from __future__ import annotations

from predictor.engine import Engine, SerialEngine
from predictor.engine.capacity import measure_capacity
from predictor.engine.step_loop import StepEngine
from predictor.errors import ModelLoadError
from predictor.pipeline import DiffusersPipeline
from predictor.settings import Settings
from predictor.unet import denoiser_for, supports


def open_engine(pipeline: DiffusersPipeline, settings: Settings) -> Engine:
    """Measure what the device can do, and start.

    Raises:
        ModelLoadError: the denoiser's own parts do not run.
    """
    if not supports(pipeline.diffusers):
        return SerialEngine(pipeline, settings.max_queue_length)
    denoiser = denoiser_for(pipeline)
    request = pipeline.profile.default_request("warm-up")
    try:
        capacity = measure_capacity(denoiser, request, settings.max_lanes)
        return StepEngine(denoiser, capacity, settings.max_queue_length)
    except Exception as error:
        raise ModelLoadError(f"the warm-up steps failed: {error}") from error
