"""Compare diffusers with the step loop on one NVIDIA GPU, row by row.

``python -m bench.gpu`` takes at most 8 minutes (``--minutes``). It builds pipelines with the shapes
of Stable Diffusion 1.5 at 512x512 and SDXL at 1024x1024, in bfloat16 with random weights. Each row
is printed and written to ``bench/results/gpu.json`` as soon as it is measured, so a run that is
stopped keeps its rows. Without a GPU it prints a notice and exits.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch.utils.flop_counter import FlopCounterMode

from bench.random_models import stable_diffusion_1_5, stable_diffusion_xl
from predictor.engine.batch_searches import Start
from predictor.engine.capacity import Capacity, first_capacity, step_once
from predictor.engine.step_loop import StepEngine
from predictor.pipelines.stepwise import denoiser_for
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationDefaults, GenerationRequest, ModelProfile

RESULTS = Path(__file__).resolve().parent / "results" / "gpu.json"
SHAPES = {"sd15-512": (stable_diffusion_1_5, 512), "sdxl-1024": (stable_diffusion_xl, 1024)}
ROUNDS = 3
STEPS = 20
CROWD = 16
# Steps of the mixed requests, in turn; guidance and scheduler differ between them too.
MIXED_STEPS = (10, 20, 30, 40, 50)
MIXED_SCHEDULERS = ("unipc", "euler", "dpmpp_2m", "ddim")

Figures = dict[str, Any]


def main() -> int:
    """Measure row by row until all are done or the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="start no row after this")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch finds no GPU here; nothing is measured")
        return 0
    deadline = time.monotonic() + 60 * options.minutes
    result: Figures = {
        "device": torch.cuda.get_device_name(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "torch": torch.__version__,
        "matmul_tflops": round(_matmul_rate() / 1e12, 1),
    }
    for name in options.shapes:
        result[name] = {}
        build, side = SHAPES[name]
        shape = Shape(build, side)
        for row, figures in shape.rows():
            result[name][row] = figures
            print(f"{name} {row} {json.dumps(figures)}", flush=True)
            RESULTS.write_text(json.dumps(result, indent=1) + "\n")
            if time.monotonic() > deadline:
                print("the time is over")
                return 0
        del shape
        gc.collect()
        torch.cuda.empty_cache()
    return 0


class Shape:
    """One pipeline on the GPU, and what is measured with it."""

    def __init__(self, build: Callable[[], DiffusionPipeline], side: int) -> None:
        torch.manual_seed(0)
        torch.cuda.reset_peak_memory_stats()
        with torch.device("cuda"):
            built = build()
        built = built.to("cuda", torch.bfloat16)
        built.set_progress_bar_config(disable=True)
        defaults = GenerationDefaults(side, side, STEPS, 7.5, "unipc")
        profile = ModelProfile("random", defaults, 8, MIXED_SCHEDULERS)
        self._pipeline = DiffusersPipeline(built, profile)
        self._denoiser = denoiser_for(self._pipeline)
        self._request = profile.default_request("a red circle")
        self._mixed = [
            replace(
                self._request,
                seed=seed,
                num_inference_steps=MIXED_STEPS[seed % len(MIXED_STEPS)],
                scheduler=MIXED_SCHEDULERS[seed % len(MIXED_SCHEDULERS)],
                guidance_scale=5.0 + seed % 4,
            )
            for seed in range(CROWD)
        ]

    def rows(self) -> Iterator[tuple[str, Figures]]:
        """Each row and its figures; rates are in pictures a second."""
        unet = self._pipeline.diffusers.unet
        # Before compilation, which hides the modules from the counter.
        flops = _flops_of_a_guided_step(self._pipeline)
        yield "unet", {"tflop_a_guided_step": round(flops / 1e12, 3)}
        yield "diffusers eager", self._diffusers_alone()
        yield "diffusers one after another, 16 mixed", self._one_after_another()
        capacity = first_capacity(self._denoiser, self._request, Start(2, largest=64))
        with self._engine(capacity) as engine:
            self._crowd(engine, self._mixed)
            lanes, decode = capacity.lanes, capacity.steps_per_decode
            yield "capacity", {"lanes": lanes, "steps_per_decode": decode}
            yield "ours eager", self._lone(engine)
            yield "ours eager, 16 mixed", self._crowd(engine, self._mixed)
            crowd = [replace(self._request, seed=seed) for seed in range(CROWD)]
            figures = self._crowd(engine, crowd)
            # A lower bound of the UNet's rate: the time includes text encoding and decoding.
            rate = figures["pictures_a_second"] * STEPS * flops
            yield "ours eager, 16 alike", figures | {"achieved_tflops": round(rate / 1e12, 1)}
            yield "a turn of 16 alike", self._turn(engine)
        yield "memory", {"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}
        seconds = _seconds(lambda: unet.compile() or self._diffusers_alone())
        torch.compiler.set_stance("default")
        yield "diffusers compiled", self._diffusers_alone() | {"compile_seconds": round(seconds)}
        seconds = _seconds(self._compile_for_the_engine)
        with self._engine(capacity) as engine:
            yield "ours compiled", self._lone(engine) | {"compile_seconds": round(seconds)}
            yield "ours compiled, 16 mixed", self._crowd(engine, self._mixed)

    @contextmanager
    def _engine(self, capacity: Capacity) -> Iterator[StepEngine]:
        engine = StepEngine(self._denoiser, capacity, max_queue_length=1_000)
        try:
            yield engine
        finally:
            engine.close()

    def _compile_for_the_engine(self) -> None:
        """As ``predictor.loading.compilation`` does."""
        torch._dynamo.reset()
        self._pipeline.diffusers.unet.compile(dynamic=True)
        for lanes in (2, 1):
            step_once(self._denoiser, self._request, lanes)
        torch.cuda.synchronize()
        torch.compiler.set_stance("eager_on_recompile")

    def _diffusers_alone(self) -> Figures:
        return _rates(lambda: _own_calls(self._pipeline, [self._request]), 1)

    def _one_after_another(self) -> Figures:
        return _rates(lambda: _own_calls(self._pipeline, self._mixed), CROWD, rounds=1)

    def _lone(self, engine: StepEngine) -> Figures:
        return _rates(lambda: _together(engine, [self._request]), 1)

    def _crowd(self, engine: StepEngine, requests: list[GenerationRequest]) -> Figures:
        return _rates(partial(_together, engine, requests), len(requests), rounds=2)

    def _turn(self, engine: StepEngine) -> Figures:
        """Milliseconds of a turn inside the UNet and outside.

        The difference between requests of 30 and of 10 steps leaves out text and decoding.
        """
        (short, short_unet), (long, long_unet) = (self._timed(engine, steps) for steps in (10, 30))
        turn, unet = (long - short) / 20, (long_unet - short_unet) / 20
        return {
            "turn_ms": round(turn, 2),
            "unet_ms": round(unet, 2),
            "outside_ms": round(turn - unet, 2),
        }

    def _timed(self, engine: StepEngine, steps: int) -> tuple[float, float]:
        """Milliseconds of a crowd, and those between the start and the end of each UNet pass."""
        events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        unet = self._pipeline.diffusers.unet

        def before(*_: object) -> None:
            events.append((_event(), _event()))
            events[-1][0].record()

        hooks = [
            unet.register_forward_pre_hook(before),
            unet.register_forward_hook(lambda *_: events[-1][1].record()),
        ]
        crowd = [
            replace(self._request, seed=seed, num_inference_steps=steps) for seed in range(CROWD)
        ]
        seconds = _seconds(lambda: _together(engine, crowd))
        for hook in hooks:
            hook.remove()
        return 1000 * seconds, sum(start.elapsed_time(end) for start, end in events)


def _rates(work: Callable[[], object], pictures: int, rounds: int = ROUNDS) -> Figures:
    """The median of ``rounds`` after a warm-up, which selects kernels."""
    work()
    seconds = median(_seconds(work) for _ in range(rounds))
    return {"pictures_a_second": round(pictures / seconds, 3), "seconds": round(seconds, 4)}


def _seconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _own_calls(pipeline: DiffusersPipeline, requests: list[GenerationRequest]) -> None:
    for request in requests:
        pipeline.generate([request], lambda step, steps: None)


def _together(engine: StepEngine, requests: list[GenerationRequest]) -> None:
    async def submit_all() -> None:
        await asyncio.gather(*(engine.submit(request) for request in requests))

    asyncio.run(submit_all())


def _flops_of_a_guided_step(pipeline: DiffusersPipeline) -> int:
    """FLOPs of the UNet alone in a picture of one guided step, as torch counts them."""
    counter = FlopCounterMode(display=False)
    request = replace(pipeline.profile.default_request("any"), num_inference_steps=1)
    with counter:
        _own_calls(pipeline, [request])
    counts = counter.get_flop_counts()
    return sum(counts.get(type(pipeline.diffusers.unet).__name__, {}).values())


def _matmul_rate() -> float:
    """FLOP/s of a large bfloat16 matrix product that fits every GPU."""
    size = 8192
    left = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        left @ left
    seconds = _seconds(lambda: [left @ left for _ in range(20)])
    return 20 * 2 * size**3 / seconds


if __name__ == "__main__":
    sys.exit(main())
