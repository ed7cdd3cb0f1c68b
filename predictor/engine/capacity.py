"""How much work fits into one turn of the engine, learned from the turns themselves."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import ClassVar, NamedTuple

import torch

from predictor.engine.batch_search import Comparison
from predictor.engine.batch_searches import BatchSearches, Kind, Start
from predictor.engine.inbox import lanes_of
from predictor.engine.interfaces import Denoiser, Lane
from predictor.engine.job import Job
from predictor.requests import GenerationRequest

# Even where batching gains nothing, jobs take turns so that short ones do not wait for long ones.
_MIN_LANES_IN_FLIGHT = 16
# Decoding takes more memory than a step and gains little from batching.
_MAX_DECODE_BATCH = 4
# The VAEs of Stable Diffusion and SDXL reduce each side to an eighth.
_LATENT_SIDE = 8
# A guided picture takes two lanes.
_FEWEST_LANES = 2
# Of the time of a pass for one guided picture, before passes have been compared: 16 pictures then
# take 4.75 times as long as one. The demo model takes 4 times as long on two cores, and Stable
# Diffusion 1.5 takes 3 times as long on a GPU (docs/performance.md).
_FIXED_SHARE = 0.75


class ForwardPass(NamedTuple):
    """A pass over ``lanes`` lanes of jobs of one kind; ``shape`` is that of their latents."""

    kind: Hashable
    shape: torch.Size
    lanes: int

    @classmethod
    def over(cls, jobs: Sequence[Job]) -> ForwardPass:
        """The pass of these jobs."""
        return cls(jobs[0].kind, jobs[0].shape, sum(job.lanes for job in jobs))


class Capacity:
    """The bounds of one turn.

    ``lanes`` of the default shape, which has ``latent_pixels``, fit into one forward pass. That is
    what an earlier search has found, unless ``start`` is given: the engine then learns the bound,
    for each kind and shape of job, and never has more than ``start.largest`` lanes in flight.

    ``steps_per_decode`` is the time to decode a picture, in steps of one guided picture. A pass
    takes ``fixed_seconds`` and ``lane_seconds`` for each lane; both are 0 if they are unknown.
    Until the first comparison of passes, one pass is expected to hold all lanes in flight:
    ``lanes`` is still low then, and calls would be refused that the engine can serve.
    ``out_of_memory`` counts the batches that did not fit. For ``guidance_is_input`` see
    ``GenerationRequest.cfg_scale``.
    """

    joins_midway: ClassVar[bool] = True

    def __init__(
        self,
        lanes: int,
        latent_pixels: int,
        steps_per_decode: float,
        fixed_seconds: float = 0.0,
        lane_seconds: float = 0.0,
        start: Start | None = None,
        *,
        guidance_is_input: bool = False,
    ) -> None:
        start = start or Start(lanes, max(lanes, _MIN_LANES_IN_FLIGHT), is_settled=True)
        self._searches = BatchSearches(start, _FEWEST_LANES, "lanes in a forward pass")
        self._is_known = start.is_settled
        self._latent_pixels = latent_pixels
        self._max_lanes = start.largest
        self.steps_per_decode = steps_per_decode
        self.fixed_seconds, self.lane_seconds = fixed_seconds, lane_seconds
        self.out_of_memory = 0
        self._guidance_is_input = guidance_is_input

    @property
    def lanes(self) -> int:
        """The most lanes of the default shape in one forward pass."""
        return self._searches.best

    @property
    def changes(self) -> Counter[str]:
        """How often ``lanes`` has ``grown`` or ``shrunk`` because of the time of passes."""
        return self._searches.changes

    @property
    def jobs_in_flight(self) -> int:
        """The largest number of guided pictures that share the denoiser."""
        lanes = max(self._searches.wanted, _MIN_LANES_IN_FLIGHT)
        return min(lanes, self._max_lanes) // 2

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
        return self.steps_per_decode * self._picture_seconds

    def size(self, request: GenerationRequest) -> float:
        """See ``Workload.size``."""
        pixels = request.width * request.height / _LATENT_SIDE**2
        lanes = lanes_of(request.cfg_scale(guidance_is_input=self._guidance_is_input))
        return lanes * max(1.0, pixels / self._latent_pixels)

    def step_seconds(self, size: float) -> float:
        """See ``Workload.step_seconds``; more lanes than fit take several passes."""
        if not self.has_times:
            return size
        lanes = self.lanes if self._is_known else max(self.lanes, 2 * self.jobs_in_flight)
        passes = max(1.0, size / lanes)
        return passes * (self.fixed_seconds + self.lane_seconds * min(size, lanes))

    def expect(self, step_seconds: float, decode_seconds: float) -> None:
        """Set the seconds of a guided picture of the default shape, before passes are compared."""
        self.fixed_seconds = _FIXED_SHARE * step_seconds
        self.lane_seconds = (1 - _FIXED_SHARE) * step_seconds / _FEWEST_LANES
        self.steps_per_decode = decode_seconds / self._picture_seconds

    def fitting(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs to run in the next forward pass, at least one; all have the same kind."""
        if not jobs:
            return []
        ready = ForwardPass.over(jobs)
        most = self._searches.limit(self._kind(ready), ready.lanes)
        batch: list[Job] = []
        used = 0
        for job in jobs:
            used += job.lanes
            if batch and used > most:
                break
            batch.append(job)
        return batch

    def observe(self, done: ForwardPass, seconds: float) -> None:
        """Learn from a forward pass that took ``seconds``."""
        kind = self._kind(done)
        decode_seconds = self.decode_seconds
        comparison = self._searches.observe(kind, done.lanes, seconds)
        self._is_known = self._is_known or comparison is not None
        # Without times from the start, those of ``step_seconds`` are relative.
        if comparison and self.has_times:
            fixed, lane = line_through(comparison)
            self.fixed_seconds, self.lane_seconds = fixed, lane / kind.unit
            self.steps_per_decode = decode_seconds / self._picture_seconds

    def decodes(self, stepped: int) -> int:
        """How many pictures to decode after a step of ``stepped`` pictures, in at most its time."""
        return max(1, min(_MAX_DECODE_BATCH, int(stepped / self.steps_per_decode)))

    def encodes(self, in_flight: int) -> int:
        """How many input pictures to encode before a step of ``in_flight`` pictures.

        Encoding takes about as long as decoding. On an idle engine it delays no other request, so
        requests that arrive together start together.
        """
        return self.decodes(in_flight) if in_flight else _MAX_DECODE_BATCH

    def shrink(self, jobs: list[Job]) -> None:
        """Set the bound to half of the lanes of these jobs, which did not fit."""
        self.out_of_memory += 1
        self._is_known = True
        tried = ForwardPass.over(jobs)
        self._searches.shrink_to(int(tried.lanes * self._unit(tried.shape) / 2))

    @property
    def _picture_seconds(self) -> float:
        """The share of one guided picture in the time of a full pass."""
        return self.step_seconds(self.lanes) / max(1.0, self.lanes / 2)

    def _unit(self, shape: torch.Size) -> float:
        """How many lanes of the default shape one lane of this shape is worth."""
        return max(1.0, shape[-1] * shape[-2] / self._latent_pixels)

    def _kind(self, one: ForwardPass) -> Kind:
        width, height = one.shape[-1] * _LATENT_SIDE, one.shape[-2] * _LATENT_SIDE
        return Kind(one.kind, self._unit(one.shape), f"{width}x{height}")


def line_through(found: Comparison) -> tuple[float, float]:
    """The fixed seconds of a pass and those of each lane, from passes of two sizes."""
    seconds = found.large_seconds - found.small_seconds
    # Noise can make a larger batch faster.
    lane_seconds = max(0.0, seconds / (found.large - found.small))
    return max(0.0, found.large_seconds - found.large * lane_seconds), lane_seconds


@torch.inference_mode()
def first_capacity(denoiser: Denoiser, request: GenerationRequest, start: Start) -> Capacity:
    """A capacity that begins with ``start``; ``request`` has the default shape."""
    latents = denoiser.begin(request).latents
    return Capacity(
        lanes=start.best,
        latent_pixels=latents.shape[-1] * latents.shape[-2],
        steps_per_decode=1.0,
        start=start,
        guidance_is_input=denoiser.guidance_is_input,
    )


@torch.inference_mode()
def measured_capacity(denoiser: Denoiser, request: GenerationRequest, start: Start) -> Capacity:
    """The same, with the seconds of a step and of decoding a picture like ``request``."""
    capacity = first_capacity(denoiser, request, start)
    lanes = _guided_lanes(denoiser, request)
    latents = lanes[0].denoising.latents
    capacity.expect(
        shortest_seconds(lambda: denoiser.predict(lanes)),
        shortest_seconds(lambda: denoiser.decode(latents)),
    )
    return capacity


@torch.inference_mode()
def step_once(denoiser: Denoiser, request: GenerationRequest, lanes: int) -> None:
    """Run one forward pass of one or two lanes at the shape of ``request``."""
    denoiser.predict(_guided_lanes(denoiser, request)[:lanes])


def _guided_lanes(denoiser: Denoiser, request: GenerationRequest) -> list[Lane]:
    denoising = denoiser.begin(request)
    model_input = denoising.model_input()
    conditioning = denoiser.encode(["", request.prompt], denoising.encoders)
    return [Lane(denoising, model_input, one) for one in conditioning]


def shortest_seconds(work: Callable[[], object]) -> float:
    """The shorter of two runs, or the second one if it takes more than half a second."""
    # The first run of a new size selects kernels and allocates memory.
    work()
    times: list[float] = []
    while len(times) < 2 and sum(times) < 0.5:
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)
