"""``torch.compile`` of the denoiser: it compiles before the model is ready, never afterwards.

Shapes are dynamic, so two compilations cover any number of lanes: torch specializes on a single
lane, and a second one covers more. Square pictures of any size share them. Because torch treats
equal sizes as one symbol, other aspect ratios need two more. A shape not compiled by then (another
aspect ratio, a ControlNet) runs uncompiled, so that no request waits for a compilation.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from predictor.errors import InvalidRequestError, ModelLoadError
from predictor.loading.apply import denoiser_of
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationRequest, Limits
from predictor.settings import Settings

logger = logging.getLogger(__name__)


def has_compiler(device: str) -> bool:
    """Whether the compiler that torch needs is installed: C for Triton, C++ for CPU kernels."""
    names = ("gcc", "clang") if device == "cuda" else ("g++", "clang++")
    return any(map(shutil.which, names))


def compile_denoiser(
    loaded: DiffusersPipeline,
    settings: Settings,
    runs: Sequence[Callable[[GenerationRequest], object]],
) -> None:
    """Compile the denoiser, if enabled, by calling each of ``runs`` for each size.

    A run receives the model's default request at that size.

    Raises:
        ModelLoadError: the denoiser does not compile, or requests may not have one of the sizes.
    """
    if not loaded.tuning.compile:
        return
    requests = shape_requests(loaded, settings)
    started = time.perf_counter()
    denoiser = denoiser_of(loaded.diffusers)
    assert denoiser is not None
    denoiser.compile(dynamic=True)
    try:
        # Another model may have finished its compilation and set the stance to eager.
        with torch.compiler.set_stance("default"):
            for request in requests:
                for run in runs:
                    run(request)
    except Exception as error:
        # The first line names the stage that failed, the second the cause.
        cause = " ".join(str(error).strip().splitlines()[:2])
        raise ModelLoadError(f"compile=true failed, set compile=false: {cause}") from error
    torch.compiler.set_stance("eager_on_recompile")
    logger.info("compiled the denoiser in %.0f s", time.perf_counter() - started)


def shape_requests(loaded: DiffusersPipeline, settings: Settings) -> list[GenerationRequest]:
    """Return the default request at each of ``compile_shapes``, or at the default size.

    Raises:
        ModelLoadError: requests may not have one of the sizes.
    """
    default = loaded.profile.default_request("warm-up")
    sizes = [size.split("x") for size in settings.compile_shapes.split(",") if size]
    requests = [replace(default, width=int(width), height=int(height)) for width, height in sizes]
    for request in requests:
        try:
            Limits(settings, loaded.profile).check(request)
        except InvalidRequestError as error:
            size = f"{request.width}x{request.height}"
            raise ModelLoadError(f"compile_shapes: {size}: {error}") from None
    return requests or [default]
