"""How long steps take, measured from real turns of the engine."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from predictor.requests import GenerationRequest

# One window of measurement: longer than a pause of the garbage collector or a run-ahead of a GPU.
_WINDOW_SECONDS = 0.25
# The weight of a new window, and how far it may differ from the estimate: one outlier changes the
# estimate by at most a quarter, and a lasting change of speed is adopted within ten windows.
_WEIGHT = 0.25
_MOST_CHANGE = 2.0
# Callers choose the size of their pictures, so the number of kinds needs a bound.
_MAX_KINDS = 64


class Workload(Protocol):
    """What an engine knows about its work before it has measured real requests.

    ``slots`` is the largest number of pictures in flight. ``joins_midway`` is True if a picture can
    start while others run. ``has_times`` is False if ``step_seconds`` returns relative values only.
    """

    @property
    def slots(self) -> int:
        """See the class."""

    @property
    def joins_midway(self) -> bool:
        """See the class."""

    @property
    def has_times(self) -> bool:
        """See the class."""

    @property
    def decode_seconds(self) -> float:
        """Seconds to decode one picture."""

    def size(self, request: GenerationRequest) -> float:
        """The share of the picture in a batch; 1 is one lane of the default shape."""

    def step_seconds(self, size: float) -> float:
        """Seconds in which a batch of this size takes one step."""


class ServiceTimes:
    """Corrects the expected times of a ``Workload`` by real turns, for each kind of picture.

    The engine's thread observes, and the event loop reads.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self._passes: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """Forget the turns, because the workload expects other times than before."""
        self._overall = _Ratio(1.0 if self.workload.has_times else None)
        self._kinds: dict[Hashable, _Ratio] = {}

    def observe(
        self,
        requests: Sequence[GenerationRequest],
        seconds: float,
        *,
        steps: int = 1,
        decoded: int = 0,
    ) -> None:
        """Note that pictures of one kind took ``steps``, and ``decoded`` pictures were decoded."""
        if not requests:
            return
        expected = steps * self.workload.step_seconds(sum(map(self.workload.size, requests)))
        expected += decoded * self.workload.decode_seconds
        self._overall.observe(expected, seconds)
        self._ratio_of(requests[0]).observe(expected, seconds)

    def observe_total(self, request: GenerationRequest, total_steps: int) -> None:
        """Note the number of forward passes; some schedulers take two for each step."""
        self._passes[request.scheduler] = total_steps / max(1, request.steps_taken)

    def steps_of(self, request: GenerationRequest) -> float:
        """The expected number of forward passes."""
        return request.steps_taken * self._passes.get(request.scheduler, 1.0)

    def round_seconds(self, requests: Sequence[GenerationRequest], pictures: int) -> float:
        """Seconds in which each of ``pictures`` pictures, a mix like ``requests``, takes a step.

        0 if nothing has been measured.
        """
        sizes = [self.workload.size(request) for request in requests]
        total, share = sum(sizes), pictures / len(requests)
        slowness = sum(
            size * self._slowness(request) for size, request in zip(sizes, requests, strict=True)
        )
        decodes = share * sum(1 / max(1.0, self.steps_of(request)) for request in requests)
        seconds = self.workload.step_seconds(share * total) + decodes * self.workload.decode_seconds
        return seconds * slowness / total

    def _slowness(self, request: GenerationRequest) -> float:
        """Measured by expected seconds; an unknown kind is like all others together."""
        ratio = self._kinds.get(_kind(request))
        if ratio is not None and ratio.value is not None:
            return ratio.value
        return self._overall.value or 0.0

    def _ratio_of(self, request: GenerationRequest) -> _Ratio:
        kind = _kind(request)
        # Move it to the end, so that the first kind is the one that has not been used for longest.
        ratio = self._kinds.pop(kind, None) or _Ratio(self._overall.value)
        self._kinds[kind] = ratio
        if len(self._kinds) > _MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        return ratio


def _kind(request: GenerationRequest) -> Hashable:
    """Equal for pictures whose steps take about the same time per lane."""
    controlnet = request.controlnet and request.controlnet.name
    return request.width, request.height, controlnet, bool(request.adapters)


@dataclass
class _Ratio:
    """An exponentially weighted mean of measured by expected seconds; None before the first."""

    value: float | None
    _expected: float = 0.0
    _seconds: float = 0.0

    def observe(self, expected: float, seconds: float) -> None:
        self._expected += expected
        self._seconds += seconds
        if self._seconds < _WINDOW_SECONDS or not self._expected:
            return
        ratio = self._seconds / self._expected
        self._expected = self._seconds = 0.0
        if self.value is None:
            self.value = ratio
            return
        bounded = min(max(ratio, self.value / _MOST_CHANGE), self.value * _MOST_CHANGE)
        self.value += _WEIGHT * (bounded - self.value)
