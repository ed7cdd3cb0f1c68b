"""Starts the engine for a loaded pipeline: the step loop if it supports the family."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from predictor.engine import Engine
from predictor.engine.batch_searches import Start
from predictor.engine.capacity import first_capacity, measured_capacity, step_once
from predictor.engine.interfaces import Denoiser
from predictor.engine.step_loop import StepEngine
from predictor.engine.whole_batch import WholeBatchEngine
from predictor.errors import GenerationFailedError, ModelLoadError
from predictor.loading.compilation import compile_denoiser
from predictor.loading.convolutions import Convolutions, choose_convolutions, set_layout
from predictor.loading.graph_capture import can_capture, capture_graphs
from predictor.loading.model_cache import ModelCache
from predictor.pipelines.stepwise import denoiser_for, has_unet, supports
from predictor.pipelines.whole import WARM_UP_STEPS, DiffusersPipeline
from predictor.requests import GenerationRequest, GenerationResult
from predictor.settings import Settings


class Learned:
    """The largest batch that pays off for each model, by folder, as its engine has learned it.

    A model that is loaded again starts from there, as does one whose ``ModelCache`` knows it.
    """

    def __init__(self) -> None:
        self._batches: dict[Path, int] = {}
        self._caches: dict[Path, ModelCache] = {}
        self._convolutions: dict[Path, Convolutions] = {}

    def use(self, folder: Path, cache: ModelCache) -> None:
        """Start the model from the cache, and keep there what its engine learns."""
        self._caches[folder] = cache
        if cache.batch is not None:
            self._batches.setdefault(folder, cache.batch)

    def compiled(self, folder: Path) -> Path | None:
        """The folder for compiled code of the model, None without a cache."""
        cache = self._caches.get(folder)
        return None if cache is None else cache.compiled

    def start(self, folder: Path, *, first: int, largest: int) -> Start:
        """Where the engine of the model begins: with ``first`` if nothing is known."""
        known = self._batches.get(folder)
        return Start(*(known or first, largest), known is not None, partial(self._note, folder))

    def convolutions(self, folder: Path, measure: Callable[[], Convolutions]) -> Convolutions:
        """How the convolutions of the UNet run fastest, measured once."""
        if folder not in self._convolutions:
            self._convolutions[folder] = self._cached_or(folder, measure)
        return self._convolutions[folder]

    def _cached_or(self, folder: Path, measure: Callable[[], Convolutions]) -> Convolutions:
        cache = self._caches.get(folder)
        known = cache and cache.convolutions
        if known and known.keys() == {*Convolutions._fields}:
            return Convolutions(**known)
        found = measure()
        if cache is not None:
            cache.save_convolutions(found._asdict())
        return found

    def _note(self, folder: Path, batch: int) -> None:
        if self._batches.get(folder) == batch:
            return
        self._batches[folder] = batch
        cache = self._caches.get(folder)
        if cache is not None:
            # Not on the engine's thread: the volume may be slow.
            threading.Thread(target=cache.save_batch, args=(batch,), daemon=True).start()


def open_engine(
    pipeline: DiffusersPipeline, folder: Path, settings: Settings, learned: Learned
) -> Engine:
    """Start the engine and make a picture with it, so that the first request is fast.

    Raises:
        ModelLoadError: a warm-up step or the picture failed.
    """
    try:
        if supports(pipeline.diffusers):
            return _open_step_engine(pipeline, folder, settings, learned)
        return _open_whole_batch_engine(pipeline, folder, settings, learned)
    except ModelLoadError:
        raise
    except Exception as error:
        raise ModelLoadError(f"the warm-up steps failed: {error}") from error


def _open_step_engine(
    pipeline: DiffusersPipeline, folder: Path, settings: Settings, learned: Learned
) -> StepEngine:
    denoiser = denoiser_for(pipeline)
    runs = [partial(step_once, denoiser, lanes=lanes) for lanes in (2, 1)]
    compile_denoiser(pipeline, settings, runs, learned.compiled(folder))
    if can_capture(pipeline):
        _speed_up(pipeline, denoiser, folder, settings, learned)
    request = pipeline.profile.default_request("warm-up")
    start = learned.start(folder, first=2, largest=settings.max_lanes)
    # On a CPU, a step of a full picture may take half a minute.
    measures = pipeline.device.type != "cpu"
    engine = StepEngine(
        denoiser,
        (measured_capacity if measures else first_capacity)(denoiser, request, start),
        settings.max_queue_length,
        max_queue_seconds=settings.queue_seconds,
        stall_seconds=settings.engine_stall_seconds,
        # Parts would move between the host and the GPU for each preview.
        has_previews=pipeline.tuning.savings.offload == "none",
    )
    # The scheduler's plan depends on the number of steps, and the picture has only a few.
    denoiser.prepare(request)
    picture = _make_picture(engine, pipeline)
    if not measures:
        engine.expect(*_expected_seconds(picture, request))
    return engine


def _speed_up(
    pipeline: DiffusersPipeline,
    denoiser: Denoiser,
    folder: Path,
    settings: Settings,
    learned: Learned,
) -> None:
    """Set how the convolutions of a UNet run, then capture passes of the denoiser."""
    convolutions = Convolutions()
    if has_unet(pipeline.diffusers):
        # CUDA graphs take a share of the memory that a picture leaves free.
        pipeline.warm_up()
        measure = partial(choose_convolutions, pipeline, denoiser, settings)
        convolutions = learned.convolutions(folder, measure)
        set_layout(pipeline.diffusers.unet, channels_last=convolutions.channels_last)
    capture_graphs(pipeline, denoiser, settings, searches=convolutions.searches)


def _open_whole_batch_engine(
    pipeline: DiffusersPipeline, folder: Path, settings: Settings, learned: Learned
) -> WholeBatchEngine:
    runs = [partial(_warm_up, pipeline, pictures) for pictures in (2, 1)]
    compile_denoiser(pipeline, settings, runs, learned.compiled(folder))
    start = learned.start(folder, first=1, largest=settings.max_lanes // 2)
    engine = WholeBatchEngine(
        pipeline,
        start.best,
        settings.max_queue_length,
        start=start,
        max_queue_seconds=settings.queue_seconds,
        stall_seconds=settings.engine_stall_seconds,
    )
    _make_picture(engine, pipeline)
    return engine


def _expected_seconds(picture: GenerationResult, request: GenerationRequest) -> tuple[float, float]:
    """The seconds of a step and of decoding for ``request``, in proportion to the pixels."""
    made = picture.request
    larger = request.width * request.height / (made.width * made.height)
    stages = {stage.stage: larger * stage.seconds for stage in picture.stages}
    return stages["denoise"] / made.num_inference_steps, stages["decode"]


def _make_picture(engine: Engine, pipeline: DiffusersPipeline) -> GenerationResult:
    try:
        return asyncio.run(_submit(engine, pipeline.warm_up_request()))
    except GenerationFailedError:
        engine.close()
        # The engine hides causes from callers. The pipeline's own call fails with the cause.
        pipeline.warm_up()
        raise
    except BaseException:
        engine.close()
        raise


async def _submit(engine: Engine, request: GenerationRequest) -> GenerationResult:
    return await engine.submit(request)


def _warm_up(pipeline: DiffusersPipeline, pictures: int, request: GenerationRequest) -> None:
    """Generate pictures with guidance and without."""
    for guidance_scale in (request.guidance_scale, 0.0):
        alike = replace(request, guidance_scale=guidance_scale, num_inference_steps=WARM_UP_STEPS)
        pipeline.generate([alike] * pictures, lambda step, steps: None)
