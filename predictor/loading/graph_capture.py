"""Captures CUDA graphs of the denoiser before the model is ready, and keeps those that pay.

A graph is kept if it takes at most a quarter of the free memory, if its predictions equal those of
the network's own call, and if it is faster than the smallest pass that it would replace. Most
transformers keep the GPU busy with a single lane; none of their passes is captured then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch

from predictor.engine.capacity import shortest_seconds, step_once
from predictor.engine.faults import is_out_of_memory, raise_if_device_is_lost, release_cache
from predictor.engine.interfaces import Denoiser
from predictor.loading.apply import denoiser_of
from predictor.loading.compilation import shape_requests
from predictor.pipelines.cuda_graphs import CapturedPass, Pass
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationRequest
from predictor.settings import Settings

logger = logging.getLogger(__name__)

# Descending, so that smaller graphs reuse the memory of the larger ones.
BUCKETS = (16, 12, 8, 6, 4, 2, 1)
# Memory of a graph is not available to pictures of other sizes, larger batches and decoding.
_LARGEST_SHARE = 0.25
# Of the largest value of a prediction. Kernels that sum in another order differ by 1 % in bfloat16.
LARGEST_DIFFERENCE = 0.02
# Below this, a saving may be noise.
_LEAST_SAVING = 0.05
_LAUNCH_TRIALS = 3

# Measures the seconds of some work.
Stopwatch = Callable[[Callable[[], object]], float]


class _NotKeptError(Exception):
    """Why a graph is not kept."""


class _Candidate(NamedTuple):
    """``example`` has the lanes of the graph, ``least`` the fewest that it would replace."""

    example: Pass
    least: Pass


def can_capture(loaded: DiffusersPipeline) -> bool:
    """Whether the device has graphs, and the weights do not move."""
    return loaded.device.type == "cuda" and loaded.tuning.savings.offload == "none"


@contextmanager
def cudnn_search(*, enabled: bool) -> Iterator[None]:
    """Let cuDNN time its algorithms for each new shape of a convolution, or not."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, enabled
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def example_pass(loaded: DiffusersPipeline, denoiser: Denoiser, request: GenerationRequest) -> Pass:
    """The arguments of a guided step of ``request``."""
    return loaded.graphs.arguments_of(partial(step_once, denoiser, request, 2))


@torch.inference_mode()
def capture_graphs(
    loaded: DiffusersPipeline,
    denoiser: Denoiser,
    settings: Settings,
    *,
    searches: bool = False,
    seconds_of: Stopwatch = shortest_seconds,
) -> dict[str, list[int]]:
    """Capture a graph per bucket for the default size and each of ``compile_shapes``, if enabled.

    Requires ``can_capture``. ``searches`` captures the algorithms that cuDNN finds fastest.
    Returns the lanes of the graphs that are kept, by size, such as ``512x512``.

    Raises:
        ModelLoadError: requests may not have one of the sizes.
        DeviceLostError: the GPU fails every call.
    """
    if settings.cuda_graphs == "off":
        return {}
    default = loaded.profile.default_request("warm-up")
    shapes = [one for one in shape_requests(loaded, settings) if one != default]
    started = time.perf_counter()
    kept = {
        _size(request): _capture_size(loaded, denoiser, request, settings, searches, seconds_of)
        for request in (default, *shapes)
    }
    seconds = time.perf_counter() - started
    words = [f"{size}: {', '.join(map(str, lanes)) or 'none'}" for size, lanes in kept.items()]
    logger.info("captured CUDA graphs in %.1f s, lanes by size: %s", seconds, "; ".join(words))
    return kept


def _size(request: GenerationRequest) -> str:
    return f"{request.width}x{request.height}"


def _capture_size(
    loaded: DiffusersPipeline,
    denoiser: Denoiser,
    request: GenerationRequest,
    settings: Settings,
    searches: bool,
    seconds_of: Stopwatch,
) -> list[int]:
    """Capture the buckets of one size and return the lanes of those that are kept."""
    lone = example_pass(loaded, denoiser, request)
    if not _may_save(loaded, lone.resized(1)):
        logger.info("no CUDA graphs at %s: the GPU does not wait for the CPU", _size(request))
        return []
    kept = []
    for lanes, smaller in zip(BUCKETS, (*BUCKETS[1:], 0), strict=True):
        if lanes > settings.max_lanes:
            continue
        candidate = _Candidate(lone.resized(lanes), lone.resized(smaller + 1))
        try:
            graph, taken = _captured(loaded, candidate, searches, seconds_of)
        except Exception as error:
            raise_if_device_is_lost(error)
            cause = _cause(error)
            _report(lanes, request, cause)
            if isinstance(cause, _NotKeptError) or is_out_of_memory(cause):
                continue
            break
        loaded.graphs.keep(candidate.example, graph, taken)
        kept.append(lanes)
    return kept[::-1]


def _may_save(loaded: DiffusersPipeline, smallest: Pass) -> bool:
    """Whether a graph may be faster, according to the pass of a single lane.

    If the GPU still computes when the CPU has launched all kernels, the GPU sets the time of a
    transformer, and more lanes only add to it. In a UNet, whose blocks differ in size, the GPU may
    still wait for the small ones.
    """
    network = denoiser_of(loaded.diffusers)
    if getattr(loaded.diffusers, "unet", None) is not None:
        return True
    smallest.run(network)
    shares = (_launch_share(network, smallest) for _ in range(_LAUNCH_TRIALS))
    return any(share > 1 - _LEAST_SAVING for share in shares)


def _launch_share(network: Any, example: Pass) -> float:
    """The share of the launches in the time of a pass."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    example.run(network)
    launched = time.perf_counter()
    torch.cuda.synchronize()
    return (launched - started) / (time.perf_counter() - started)


def _captured(
    loaded: DiffusersPipeline, candidate: _Candidate, searches: bool, seconds_of: Stopwatch
) -> tuple[CapturedPass, int]:
    """Capture a graph, check it, and return it with the bytes that it takes.

    Raises:
        _NotKeptError: it fails a check.
    """
    network = denoiser_of(loaded.diffusers)
    with cudnn_search(enabled=searches):
        graph, taken = _within_memory(loaded, candidate.example)
        _check_prediction(network, graph, candidate.example)
    eager = seconds_of(lambda: candidate.least.run(network))
    replayed = seconds_of(lambda: graph.replay(candidate.least))
    if replayed > (1 - _LEAST_SAVING) * eager:
        raise _NotKeptError(
            f"it takes {1000 * replayed:.1f} ms, but a pass of {candidate.least.lanes} without it "
            f"{1000 * eager:.1f} ms"
        )
    return graph, taken


def _within_memory(loaded: DiffusersPipeline, example: Pass) -> tuple[CapturedPass, int]:
    network = denoiser_of(loaded.diffusers)
    # Selects kernels, which a capture does not allow.
    example.run(network)
    release_cache()
    free, _ = torch.cuda.mem_get_info(loaded.device)
    graph = loaded.graphs.capture(network, example)
    taken = free - torch.cuda.mem_get_info(loaded.device)[0]
    if taken > _LARGEST_SHARE * free:
        raise _NotKeptError(
            f"it takes {taken / 2**30:.1f} GiB of {free / 2**30:.1f} GiB of free memory"
        )
    # Other models free memory meanwhile.
    return graph, max(0, taken)


def _check_prediction(network: Any, graph: CapturedPass, example: Pass) -> None:
    """Compare with the network's own call on other arguments than those of the capture.

    A graph whose kernels do not read all arguments would otherwise pass.
    """
    other = example.map(lambda one: torch.randn_like(one) * one.abs().amax())
    expected = other.run(network).float()
    difference = (graph.replay(other).float() - expected).abs().amax() / expected.abs().amax()
    # NaN fails too.
    if not difference <= LARGEST_DIFFERENCE:
        raise _NotKeptError(f"its prediction differs by {100 * float(difference):.0f} %")


def _cause(error: BaseException) -> BaseException:
    """The first error; the end of an invalid capture raises another one."""
    return error if error.__context__ is None else _cause(error.__context__)


def _report(lanes: int, request: GenerationRequest, cause: BaseException) -> None:
    reason = "out of memory" if is_out_of_memory(cause) else str(cause).partition("\n")[0]
    logger.info("no CUDA graph of %d lanes at %s: %s", lanes, _size(request), reason)
