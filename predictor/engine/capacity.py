"""How much work fits into one turn of the engine, measured when the model is loaded."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch

from predictor.engine.faults import is_out_of_memory, release_cache
from predictor.engine.inbox import lanes_of
from predictor.engine.interfaces import Denoiser, Lane, Pipeline
from predictor.engine.job import Job
from predictor.requests import GenerationRequest

logger = logging.getLogger(__name__)

# A doubled batch doubles the wait for the next one, so it must raise throughput by at least this
# share. A single miss may be noise: the search tries one more doubling.
_LEAST_GAIN = 0.1
# Even where batching gains nothing, jobs take turns so that short ones do not wait for long ones.
_MIN_JOBS_IN_FLIGHT = 8
# Decoding takes more memory than a step and gains little from batching.
_MAX_DECODE_BATCH = 4
# The VAEs of Stable Diffusion and SDXL reduce each side to an eighth.
_PIXELS_PER_LATENT = 64


@dataclass
class Capacity:
    """The bounds of one turn.

    ``lanes`` fit into one forward pass at ``latent_pixels``, the model's default shape.
    ``steps_per_decode`` is the time to decode a picture, in steps of one guided picture. A pass
    takes ``fixed_seconds`` and ``lane_seconds`` for each lane; both are 0 if they are unknown.
    ``out_of_memory`` counts the batches that did not fit. For ``guidance_is_input`` see
    ``GenerationRequest.cfg_scale``.
    """

    joins_midway: ClassVar[bool] = True

    lanes: int
    latent_pixels: int
    steps_per_decode: float
    out_of_memory: int = 0
    fixed_seconds: float = 0.0
    lane_seconds: float = 0.0
    guidance_is_input: bool = False

    def __str__(self) -> str:
        return (
            f"up to {self.lanes} lanes in a forward pass, "
            f"decoding a picture takes as long as {self.steps_per_decode:.1f} steps"
        )

    @property
    def jobs_in_flight(self) -> int:
        """The largest number of guided pictures that share the denoiser."""
        return max(self.lanes // 2, _MIN_JOBS_IN_FLIGHT)

    @property
    def slots(self) -> int:
        """See ``Workload.slots``."""
        return self.jobs_in_flight

    @property
    def has_times(self) -> bool:
        """See ``Workload.has_times``."""
        return self.fixed_seconds + self.lane_seconds > 0

    @property
    def decode_seconds(self) -> float:
        """See ``Workload.decode_seconds``."""
        return self.steps_per_decode * self.step_seconds(self.lanes) / max(1.0, self.lanes / 2)

    def size(self, request: GenerationRequest) -> float:
        """See ``Workload.size``."""
        pixels = request.width * request.height / _PIXELS_PER_LATENT
        lanes = lanes_of(request.cfg_scale(guidance_is_input=self.guidance_is_input))
        return lanes * max(1.0, pixels / self.latent_pixels)

    def step_seconds(self, size: float) -> float:
        """See ``Workload.step_seconds``; more lanes than fit take several passes."""
        if not self.has_times:
            return size
        passes = max(1.0, size / self.lanes)
        return passes * (self.fixed_seconds + self.lane_seconds * min(size, self.lanes))

    def fitting(self, jobs: Iterable[Job]) -> list[Job]:
        """The first jobs that fit into one forward pass, at least one; all have the same shape."""
        batch: list[Job] = []
        used = 0.0
        for job in jobs:
            used += self._cost(job)
            if batch and used > self.lanes:
                break
            batch.append(job)
        return batch

    def decodes(self, stepped: int) -> int:
        """How many pictures to decode after a step of ``stepped`` pictures, in at most its time."""
        return max(1, min(_MAX_DECODE_BATCH, int(stepped / self.steps_per_decode)))

    def encodes(self, in_flight: int) -> int:
        """How many input pictures to encode before a step of ``in_flight`` pictures.

        Encoding takes about as long as decoding. On an idle engine it delays no other request, so
        requests that arrive together start together.
        """
        return self.decodes(in_flight) if in_flight else _MAX_DECODE_BATCH

    def improve(self, measured: Capacity) -> None:
        """Adopt a later measurement if it is larger, unless memory has run out since."""
        if not self.out_of_memory and measured.lanes > self.lanes:
            self.lanes, self.steps_per_decode = measured.lanes, measured.steps_per_decode
            self.fixed_seconds, self.lane_seconds = measured.fixed_seconds, measured.lane_seconds
            logger.info(
                "the second measurement found more capacity: %d lanes from now on", self.lanes
            )

    def shrink(self, jobs: list[Job]) -> None:
        """Set the bound to half of the lanes of these jobs, which did not fit."""
        self.out_of_memory += 1
        self.lanes = max(1, int(min(self.lanes, sum(map(self._cost, jobs)) / 2)))
        logger.warning("out of memory: at most %d lanes from now on", self.lanes)

    def _cost(self, job: Job) -> float:
        """How many lanes of the default shape the job is worth."""
        pixels = job.shape[-1] * job.shape[-2]
        return job.lanes * max(1.0, pixels / self.latent_pixels)


@torch.inference_mode()
def measure_capacity(
    denoiser: Denoiser,
    request: GenerationRequest,
    max_lanes: int,
    before_run: Callable[[], None] = lambda: None,
) -> Capacity:
    """Time steps and decoding at the shape of ``request``, the model's default.

    ``before_run`` is called before each run of the denoiser; an exception from it propagates.
    """
    lanes = _guided_lanes(denoiser, request)
    latents = lanes[0].denoising.latents

    taken: dict[int, float] = {}

    def seconds_of(pairs: int) -> float:
        taken[pairs] = _seconds(lambda: denoiser.predict(lanes * pairs), before_run)
        return taken[pairs]

    pairs, seconds = find_best_batch(seconds_of, max_lanes // 2)
    decode_seconds = _seconds(lambda: denoiser.decode(latents), before_run)
    fixed_seconds, lane_seconds = line_through(taken[1], seconds, pairs)
    capacity = Capacity(
        lanes=2 * pairs,
        latent_pixels=latents.shape[-1] * latents.shape[-2],
        steps_per_decode=decode_seconds / (seconds / pairs),
        fixed_seconds=fixed_seconds,
        lane_seconds=lane_seconds,
        guidance_is_input=denoiser.guidance_is_input,
    )
    logger.info("measured %s, %.1f guided steps a second", capacity, pairs / seconds)
    return capacity


def line_through(alone: float, together: float, pairs: int) -> tuple[float, float]:
    """The fixed seconds of a pass and those of each lane, from one pair and from ``pairs``."""
    if pairs == 1:
        return 0.0, alone / 2
    # Noise can make a larger batch faster.
    lane_seconds = max(0.0, (together - alone) / (2 * (pairs - 1)))
    return together - 2 * pairs * lane_seconds, lane_seconds


@torch.inference_mode()
def step_once(denoiser: Denoiser, request: GenerationRequest, lanes: int) -> None:
    """Run one forward pass of one or two lanes at the shape of ``request``."""
    denoiser.predict(_guided_lanes(denoiser, request)[:lanes])


def _guided_lanes(denoiser: Denoiser, request: GenerationRequest) -> list[Lane]:
    denoising = denoiser.begin(request)
    model_input = denoising.model_input()
    conditioning = denoiser.encode(["", request.prompt], denoising.encoders)
    return [Lane(denoising, model_input, one) for one in conditioning]


def measure_whole_batch(
    pipeline: Pipeline,
    request: GenerationRequest,
    max_pictures: int,
    before_run: Callable[[], None] = lambda: None,
) -> int:
    """The largest number of pictures like ``request`` that one call of the pipeline should make.

    ``before_run`` is called before each run and at each step; an exception from it propagates.
    """

    def seconds_of(pictures: int) -> float:
        requests = [request] * pictures
        return _seconds(
            lambda: pipeline.generate(requests, lambda step, steps: before_run()), before_run
        )

    size, seconds = find_best_batch(seconds_of, max_pictures)
    logger.info("up to %d pictures in one call: %.0f ms of warm-up", size, seconds * 1000)
    return size


def find_best_batch(seconds_of: Callable[[int], float], max_size: int) -> tuple[int, float]:
    """Double the batch until throughput has not grown twice.

    Returns the best size and its seconds.
    """
    best, seconds = 1, seconds_of(1)
    size = 2
    while size <= min(max_size, 4 * best):
        try:
            taken = seconds_of(size)
        except Exception as error:
            if is_out_of_memory(error):
                break
            raise
        if size / taken >= (1 + _LEAST_GAIN) * best / seconds:
            best, seconds = size, taken
        size *= 2
    release_cache()
    return best, seconds


def _seconds(work: Callable[[], object], before_run: Callable[[], None]) -> float:
    """The shortest of three runs, or of fewer if they take more than a second together."""
    # The first run of a new size selects kernels and allocates memory.
    before_run()
    work()
    times: list[float] = []
    while len(times) < 3 and sum(times) < 1:
        before_run()
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)
