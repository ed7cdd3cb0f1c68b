"""Times on a GPU, whose work still runs when a call returns; on a CPU, plain seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple

import torch

from predictor.pipelines.cuda_graphs import CudaGraphs, Pass

ROUNDS = 3

Figures = dict[str, Any]


class TimedPass(NamedTuple):
    """The lanes of a forward pass, and two points in the work of the device."""

    lanes: int
    start: Any
    end: Any

    @property
    def milliseconds(self) -> float:
        """The time of the device between the two points."""
        if isinstance(self.start, float):
            return 1000 * (float(self.end) - self.start)
        return float(self.start.elapsed_time(self.end))


@contextmanager
def timed_passes(graphs: CudaGraphs) -> Iterator[list[TimedPass]]:
    """Collect each pass of the UNet, replayed or not; read the times once the device is done."""
    passes: list[TimedPass] = []
    own = graphs.run

    def run(unet: Any, given: Pass, *rest: Any, **options: Any) -> torch.Tensor:
        start = _mark()
        prediction = own(unet, given, *rest, **options)
        passes.append(TimedPass(given.lanes, start, _mark()))
        return prediction

    graphs.run = run  # type: ignore[method-assign]
    try:
        yield passes
    finally:
        del graphs.run


def _mark() -> Any:
    """This point in the work of the device."""
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def rates(work: Callable[[], object], pictures: int) -> Figures:
    """The median of the rounds after a warm-up, which selects kernels."""
    work()
    return rate(pictures, median(seconds_of(work) for _ in range(ROUNDS)))


def rate(pictures: int, seconds: float) -> Figures:
    """Pictures a second, and the seconds of all."""
    return {"pictures_a_second": round(pictures / seconds, 3), "seconds": round(seconds, 4)}


def seconds_of(work: Callable[[], object]) -> float:
    """The seconds of the work, until the device is done."""
    _wait_for_the_device()
    started = time.perf_counter()
    work()
    _wait_for_the_device()
    return time.perf_counter() - started


def _wait_for_the_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gib() -> float:
    """The most GPU memory that torch has held, graphs included, in GiB."""
    return round(torch.cuda.max_memory_reserved() / 2**30, 2)


def matmul_rate() -> float:
    """FLOP/s of a large bfloat16 matrix product that fits every GPU; a small one on a CPU."""
    is_gpu = torch.cuda.is_available()
    size, times = (8192, 20) if is_gpu else (256, 2)
    device, dtype = ("cuda", torch.bfloat16) if is_gpu else ("cpu", torch.float32)
    left = torch.randn(size, size, device=device, dtype=dtype)
    for _ in range(3):
        left @ left
    seconds = seconds_of(lambda: [left @ left for _ in range(times)])
    return times * 2 * size**3 / seconds
