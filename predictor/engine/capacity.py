"""How much fits into one turn of the engine: measured when the model is loaded, not guessed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from predictor.engine.interfaces import Denoiser, Lane, Pipeline
from predictor.engine.job import Job
from predictor.requests import GenerationRequest

logger = logging.getLogger(__name__)

# A doubled batch doubles the wait for a place in the next one, so it must bring this much more
# pictures a second. One that does not may have met noise: the search looks one doubling further.
_LEAST_GAIN = 0.1
# Where batches bring no throughput, jobs still take turns: a short one need not wait for long ones.
_MIN_JOBS_IN_FLIGHT = 8
# A decoder takes more memory than a step, and gains little from batches.
_MOST_DECODED_TOGETHER = 4


@dataclass
class Capacity:
    """Bounds of one turn.

    ``lanes`` fit into one forward pass at ``latent_pixels``, the model's default shape.
    ``steps_per_decode`` is the time of decoding a picture, in the step time of a guided picture.
    ``out_of_memory`` counts the batches that did not fit.
    """

    lanes: int
    latent_pixels: int
    steps_per_decode: float
    out_of_memory: int = 0

    def __str__(self) -> str:
        return (
            f"up to {self.lanes} lanes in a forward pass, "
            f"decoding a picture takes as long as {self.steps_per_decode:.1f} steps"
        )

    @property
    def jobs_in_flight(self) -> int:
        """The most guided pictures that are denoised in turns."""
        return max(self.lanes // 2, _MIN_JOBS_IN_FLIGHT)

    def fitting(self, jobs: Iterable[Job]) -> list[Job]:
        """The first of the jobs, all of one shape, that fit into one forward pass; at least one."""
        batch: list[Job] = []
        used = 0.0
        for job in jobs:
            used += self._cost(job)
            if batch and used > self.lanes:
                break
            batch.append(job)
        return batch

    def decodes(self, stepped: int) -> int:
        """How many pictures to decode after a step of so many, so as to take no longer than it."""
        return max(1, min(_MOST_DECODED_TOGETHER, int(stepped / self.steps_per_decode)))

    def encodes(self, in_flight: int) -> int:
        """How many input pictures to encode before a step of so many: that takes about as long as
        decoding them. Where nobody is held up, those that come together step together.
        """
        return self.decodes(in_flight) if in_flight else _MOST_DECODED_TOGETHER

    def improve(self, measured: Capacity) -> None:
        """Take a later measurement where it found more; never after memory has run out."""
        if not self.out_of_memory and measured.lanes > self.lanes:
            self.lanes, self.steps_per_decode = measured.lanes, measured.steps_per_decode
            logger.info("more fits than was measured at first: %d lanes from now on", self.lanes)

    def shrink(self, jobs: list[Job]) -> None:
        """These did not fit: half of them is the bound from now on."""
        self.out_of_memory += 1
        self.lanes = max(1, int(min(self.lanes, sum(map(self._cost, jobs)) / 2)))
        logger.warning("out of memory: at most %d lanes from now on", self.lanes)

    def _cost(self, job: Job) -> float:
        """The job's lanes, counted in those of the default shape."""
        pixels = job.shape[-1] * job.shape[-2]
        return job.lanes * max(1.0, pixels / self.latent_pixels)


@torch.inference_mode()
def measure_capacity(
    denoiser: Denoiser,
    request: GenerationRequest,
    max_lanes: int,
    go_on: Callable[[], None] = lambda: None,
) -> Capacity:
    """Step and decode at the shape of ``request``, the model's default.

    ``go_on`` is called before each run of the denoiser; what it raises ends the measuring.
    """
    lanes = _guided_lanes(denoiser, request)
    latents = lanes[0].denoising.latents

    def seconds_of(pairs: int) -> float:
        return _seconds(lambda: denoiser.predict(lanes * pairs), go_on)

    pairs, seconds = find_best_batch(seconds_of, max_lanes // 2)
    decode_seconds = _seconds(lambda: denoiser.decode(latents), go_on)
    capacity = Capacity(
        lanes=2 * pairs,
        latent_pixels=latents.shape[-1] * latents.shape[-2],
        steps_per_decode=decode_seconds / (seconds / pairs),
    )
    logger.info("measured %s, %.1f guided steps a second", capacity, pairs / seconds)
    return capacity


@torch.inference_mode()
def step_once(denoiser: Denoiser, request: GenerationRequest, lanes: int) -> None:
    """One forward pass of one lane or two at the shape of ``request``."""
    denoiser.predict(_guided_lanes(denoiser, request)[:lanes])


def _guided_lanes(denoiser: Denoiser, request: GenerationRequest) -> list[Lane]:
    denoising = denoiser.begin(request)
    model_input = denoising.model_input()
    conditioning = denoiser.encode(["", request.prompt], denoising.encoders)
    return [Lane(denoising, model_input, one) for one in conditioning]


def measure_whole_batch(
    pipeline: Pipeline,
    request: GenerationRequest,
    most: int,
    go_on: Callable[[], None] = lambda: None,
) -> int:
    """How many pictures like ``request`` one call of the pipeline should make at most.

    ``go_on`` is called at each step; what it raises ends the measuring.
    """

    def make(pictures: int) -> float:
        requests = [request] * pictures
        return _seconds(lambda: pipeline.generate(requests, lambda step, steps: go_on()), go_on)

    size, seconds = find_best_batch(make, most)
    logger.info("up to %d pictures in one call: %.0f ms of warm-up", size, seconds * 1000)
    return size


def find_best_batch(seconds_of: Callable[[int], float], most: int) -> tuple[int, float]:
    """Double the batch until that has twice brought no more a second; the best and its seconds."""
    best, seconds = 1, seconds_of(1)
    size = 2
    while size <= min(most, 4 * best):
        try:
            taken = seconds_of(size)
        except torch.OutOfMemoryError:
            break
        if size / taken >= (1 + _LEAST_GAIN) * best / seconds:
            best, seconds = size, taken
        size *= 2
    torch.cuda.empty_cache()
    return best, seconds


def _seconds(work: Callable[[], object], go_on: Callable[[], None]) -> float:
    """The best of three runs, or of fewer where they take seconds."""
    # The first run of a new size chooses kernels and asks the system for memory.
    go_on()
    work()
    times: list[float] = []
    while len(times) < 3 and sum(times) < 1:
        go_on()
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)
