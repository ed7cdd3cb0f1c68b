"""How the convolutions of a UNet run fastest on this GPU: their memory layout, and their search.

Neither is faster on every GPU and for every batch: on an H200, channels-last saves 15 % of a lone
step of Stable Diffusion 1.5, but makes a step of 64 lanes 13 % slower.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch

from predictor.engine.capacity import shortest_seconds
from predictor.engine.faults import is_out_of_memory, raise_if_device_is_lost, release_cache
from predictor.engine.interfaces import Denoiser
from predictor.loading.graph_capture import Stopwatch, cudnn_search, example_pass
from predictor.pipelines.cuda_graphs import CudaGraphs, Pass
from predictor.pipelines.whole import DiffusersPipeline
from predictor.settings import Settings

logger = logging.getLogger(__name__)

# An option must save this share of one pass, and may not cost more than that of the other.
_LEAST_SAVING = 0.05
_LARGEST_LOSS = 0.02
# By how much twice the lanes must raise throughput.
_LEAST_GAIN = 1.1


class Convolutions(NamedTuple):
    """``searches``: captured passes use the algorithms that cuDNN finds fastest.

    Other passes do not: cuDNN would search during requests, for each number of lanes and each size.
    """

    channels_last: bool = False
    searches: bool = False


class Times(NamedTuple):
    """Seconds of a guided step of one request, and of a pass of the largest useful batch."""

    lone: float
    largest: float


def improves(new: Times, old: Times) -> bool:
    """Whether one pass takes at least 5 % less time, and neither more than 2 % more."""
    ratios = [ours / theirs for ours, theirs in zip(new, old, strict=True)]
    return min(ratios) <= 1 - _LEAST_SAVING and max(ratios) <= 1 + _LARGEST_LOSS


def set_layout(unet: Any, *, channels_last: bool) -> None:
    """Store the weights of the convolutions in this layout."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    # Adapters could not be loaded onto weights that were created in inference mode.
    with torch.inference_mode(False), torch.no_grad():
        unet.to(memory_format=layout)


@torch.inference_mode()
def choose_convolutions(
    loaded: DiffusersPipeline,
    denoiser: Denoiser,
    settings: Settings,
    seconds_of: Stopwatch = shortest_seconds,
) -> Convolutions:
    """Measure the options; the UNet is left in any layout.

    The layout is not measured if ``channels_last`` is set, nor for compiled code, which chooses its
    own. The search is not measured without graphs.

    Raises:
        DeviceLostError: the GPU fails every call.
    """
    chosen = Convolutions(loaded.tuning.channels_last)
    options = []
    if settings.channels_last is None and not loaded.tuning.compile:
        options.append({"channels_last": True})
    if settings.cuda_graphs != "off":
        options.append({"searches": True})
    if not options:
        return chosen
    request = loaded.profile.default_request("warm-up")
    try:
        trial = _Trial(loaded, example_pass(loaded, denoiser, request), settings, seconds_of)
        times = trial.times(chosen)
        for option in options:
            candidate = chosen._replace(**option)
            found = trial.times(candidate)
            if improves(found, times):
                chosen, times = candidate, found
    except Exception as error:
        raise_if_device_is_lost(error)
        reason = str(error).partition("\n")[0]
        logger.warning("could not measure how convolutions run fastest: %s", reason)
    layout = "channels-last" if chosen.channels_last else "contiguous"
    search = "with" if chosen.searches else "without"
    logger.info("measured convolutions: fastest %s, %s cuDNN's search", layout, search)
    return chosen


class _Trial:
    def __init__(
        self, loaded: DiffusersPipeline, lone: Pass, settings: Settings, seconds_of: Stopwatch
    ) -> None:
        self._unet = loaded.diffusers.unet
        self._lone = lone
        self._is_captured = settings.cuda_graphs != "off"
        self._seconds_of = seconds_of
        self._largest = lone.resized(self._largest_batch(settings.max_lanes))
        # By layout: a search changes only captured passes.
        self._largest_seconds: dict[bool, float] = {}

    def times(self, convolutions: Convolutions) -> Times:
        is_last = convolutions.channels_last
        set_layout(self._unet, channels_last=is_last)
        if is_last not in self._largest_seconds:
            self._largest_seconds[is_last] = self._eager(self._largest)
        return Times(self._lone_seconds(convolutions), self._largest_seconds[is_last])

    def _lone_seconds(self, convolutions: Convolutions) -> float:
        """As a graph if passes are captured; the CPU's time hides the GPU's otherwise."""
        if not self._is_captured:
            return self._eager(self._lone)
        with cudnn_search(enabled=convolutions.searches):
            self._lone.run(self._unet)
            graph = CudaGraphs().capture(self._unet, self._lone)
        return self._seconds_of(lambda: graph.replay(self._lone))

    def _largest_batch(self, most: int) -> int:
        """Double the lanes while that raises throughput by a tenth and fits into memory."""
        best, seconds = 2, self._eager(self._lone)
        while 2 * best <= most:
            try:
                taken = self._eager(self._lone.resized(2 * best))
            except Exception as error:
                if is_out_of_memory(error):
                    break
                raise
            if 2 * seconds < _LEAST_GAIN * taken:
                break
            best, seconds = 2 * best, taken
        release_cache()
        return best

    def _eager(self, given: Pass) -> float:
        return self._seconds_of(lambda: given.run(self._unet))
