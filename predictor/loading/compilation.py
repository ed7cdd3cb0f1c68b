"""``torch.compile`` of the denoiser: all of it before the model is ready, none of it after.

It is compiled with sizes left open, which takes two compilations whatever the number of lanes: one
for a single lane, which torch always treats apart, and one for more. Square pictures of any size
share them; torch takes equal sizes for one and the same, so oblong ones need two more. What has not
been met by then (an oblong picture, a ControlNet) runs as it would uncompiled, rather than have
everybody wait for a compilation.
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
    """Whether the compiler that torch starts is there: Triton wants C, the CPU's kernels C++."""
    names = ("gcc", "clang") if device == "cuda" else ("g++", "clang++")
    return any(map(shutil.which, names))


def compile_denoiser(
    loaded: DiffusersPipeline,
    settings: Settings,
    runs: Sequence[Callable[[GenerationRequest], object]],
) -> None:
    """Compile where the settings say so, by ``runs`` of the denoiser for each size.

    Each is given the model's default request at the size.

    Raises:
        ModelLoadError: it does not compile, or a size is not one that requests may have.
    """
    if not loaded.tuning.compile:
        return
    requests = _requests(loaded, settings)
    started = time.perf_counter()
    denoiser = denoiser_of(loaded.diffusers)
    assert denoiser is not None
    denoiser.compile(dynamic=True)
    try:
        # Another model may have ended its own already.
        with torch.compiler.set_stance("default"):
            for request in requests:
                for run in runs:
                    run(request)
    except Exception as error:
        # The second line has the cause, where the first names the stage that failed.
        cause = " ".join(str(error).strip().splitlines()[:2])
        raise ModelLoadError(f"compile=true failed, set compile=false: {cause}") from error
    torch.compiler.set_stance("eager_on_recompile")
    logger.info("compiled the denoiser in %.0f s", time.perf_counter() - started)


def _requests(loaded: DiffusersPipeline, settings: Settings) -> list[GenerationRequest]:
    """A request for each of the sizes to compile for."""
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
