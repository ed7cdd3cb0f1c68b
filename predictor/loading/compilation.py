"""Compiles the denoiser with ``torch.compile`` before the model is ready, never afterwards.

Sizes are symbols in the compiled code, so two compilations cover any number of lanes: torch
specializes on a single lane, and a second one covers more. Square pictures of any size share them.
Because torch treats equal sizes as one symbol, other aspect ratios need two more. What is not
compiled by then (another aspect ratio, a ControlNet) runs uncompiled.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from predictor.errors import InvalidRequestError, ModelLoadError
from predictor.loading.apply import denoiser_of
from predictor.pipelines.compiled_forward import CompiledForward
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
    folder: Path | None = None,
) -> None:
    """Compile the denoiser, if enabled, by calling each of ``runs`` for each size.

    A run receives the model's default request at that size. ``folder`` is that of
    ``CompiledForward``.

    Raises:
        ModelLoadError: the denoiser does not compile, or requests may not have one of the sizes.
    """
    if not loaded.tuning.compile:
        return
    requests = shape_requests(loaded, settings)
    started = time.perf_counter()
    forward = CompiledForward(denoiser_of(loaded.diffusers), folder)
    try:
        with forward.compiling():
            for request in requests:
                for run in runs:
                    run(request)
    except Exception as error:
        # The first line says what failed, the second often why.
        cause = " ".join(str(error).strip().splitlines()[:2])
        raise ModelLoadError(f"compile=true failed, set compile=false: {cause}") from error
    logger.info(
        "compiled the denoiser in %.0f s: %d parts, %d of them from the cache",
        *(time.perf_counter() - started, forward.compiled + forward.restored, forward.restored),
    )


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
