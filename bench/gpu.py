"""Compare bare diffusers, eager and compiled, with the step loop on a GPU.

``python -m bench.gpu`` measures pipelines with the shapes of Stable Diffusion 1.5 at 512x512 and
SDXL at 1024x1024, in float16 with random weights, and writes ``bench/results/gpu.json``. Without a
GPU it prints a notice and exits.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch.utils.flop_counter import FlopCounterMode

from bench.random_models import stable_diffusion_1_5, stable_diffusion_xl
from predictor.engine.capacity import measure_capacity
from predictor.engine.step_loop import StepEngine
from predictor.pipelines.stepwise import denoiser_for
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationDefaults, GenerationRequest, ModelProfile

RESULTS = Path(__file__).resolve().parent / "results" / "gpu.json"
ROUNDS = 5
STEPS = 20
CROWD = 16
MIXED = (10, 20, 30, 40, 50)

Figures = dict[str, Any]


def main() -> int:
    """Measure both shapes, print, write."""
    if not torch.cuda.is_available():
        print("torch finds no GPU here; nothing is measured")
        return 0
    shapes = {"sd15-512": (stable_diffusion_1_5, 512), "sdxl-1024": (stable_diffusion_xl, 1024)}
    result: Figures = {
        "device": torch.cuda.get_device_name(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "torch": torch.__version__,
        "matmul_tflops": round(_matmul_rate() / 1e12, 1),
    }
    for name, (build, side) in shapes.items():
        result[name] = measure(build, side, torch.float16, "cuda")
        print(name, json.dumps(result[name], indent=1), flush=True)
        torch.cuda.empty_cache()
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def measure(
    build: Callable[[], DiffusionPipeline], side: int, dtype: torch.dtype, device: str
) -> Figures:
    """The figures of one shape, in pictures a second unless the name has another unit."""
    torch.manual_seed(0)
    with torch.device(device):
        built = build()
    built = built.to(device, dtype)
    built.set_progress_bar_config(disable=True)
    defaults = GenerationDefaults(side, side, STEPS, 7.5, "unipc")
    pipeline = DiffusersPipeline(built, ModelProfile("random", defaults, 8, ("unipc",)))
    denoiser = denoiser_for(pipeline)
    request = pipeline.profile.default_request("a red circle")
    capacity = measure_capacity(denoiser, request, max_lanes=64)
    # Before compilation, which hides the modules from the counter.
    flops = _flops_of_a_guided_step(pipeline, side)
    engine = StepEngine(denoiser, capacity, max_queue_length=1_000)
    try:
        figures = _compare(pipeline, engine, request)
    finally:
        engine.close()
    # A lower bound of the UNet's rate: the time includes text encoding and decoding.
    figures["tflop_a_guided_step"] = round(flops / 1e12, 3)
    figures["achieved_tflops"] = round(figures["ours_crowd"] * STEPS * flops / 1e12, 1)
    figures["best_lanes"] = capacity.lanes
    return figures


def _compare(
    pipeline: DiffusersPipeline, engine: StepEngine, request: GenerationRequest
) -> Figures:
    """Eager diffusers and the step loop in turns, then compiled diffusers."""
    crowd = [replace(request, seed=seed) for seed in range(CROWD)]
    mixed = [
        replace(one, num_inference_steps=MIXED[index % len(MIXED)])
        for index, one in enumerate(crowd)
    ]
    rates: dict[str, list[float]] = {}
    for number in range(ROUNDS + 1):
        # Batches of four gain most of what larger ones do, and fit every GPU.
        turn = {
            "bare_lone": lambda: _own_calls(pipeline, [request]),
            "bare_batch_of_4": lambda: _own_call(pipeline, crowd[:4]),
            "bare_mixed": lambda: _own_calls(pipeline, mixed),
            "ours_lone": lambda: _together(engine, [request]),
            "ours_crowd": lambda: _together(engine, crowd),
            "ours_mixed": lambda: _together(engine, mixed),
        }
        for name, make in turn.items():
            rate = _rate(make)
            # The first round is a warm-up: it selects kernels.
            if number:
                rates.setdefault(name, []).append(rate)
    pipeline.diffusers.unet.compile()
    for number in range(ROUNDS + 1):
        rate = _rate(lambda: _own_calls(pipeline, [request]))
        if number:
            rates.setdefault("bare_compiled_lone", []).append(rate)
    figures: Figures = {name: round(median(values), 3) for name, values in rates.items()}
    figures["crowd_to_bare"] = round(figures["ours_crowd"] / figures["bare_lone"], 2)
    figures["mixed_to_bare"] = round(figures["ours_mixed"] / figures["bare_mixed"], 2)
    figures["lone_to_bare"] = round(figures["ours_lone"] / figures["bare_lone"], 3)
    return figures


def _rate(make: Callable[[], int]) -> float:
    """Pictures a second; ``make`` returns the number of pictures."""
    started = time.perf_counter()
    pictures = make()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return pictures / (time.perf_counter() - started)


def _own_call(pipeline: DiffusersPipeline, requests: list[GenerationRequest]) -> int:
    return len(pipeline.generate(requests, lambda step, steps: None))


def _own_calls(pipeline: DiffusersPipeline, requests: list[GenerationRequest]) -> int:
    return sum(_own_call(pipeline, [request]) for request in requests)


def _together(engine: StepEngine, requests: list[GenerationRequest]) -> int:
    async def submit_all() -> int:
        return len(await asyncio.gather(*(engine.submit(request) for request in requests)))

    return asyncio.run(submit_all())


def _flops_of_a_guided_step(pipeline: DiffusersPipeline, side: int) -> int:
    """FLOPs of the UNet alone in a picture of one guided step, as torch counts them."""
    unet = pipeline.diffusers.unet
    counter = FlopCounterMode(display=False)
    request = replace(
        pipeline.profile.default_request("any"), num_inference_steps=1, width=side, height=side
    )
    with counter:
        _own_call(pipeline, [request])
    counts = counter.get_flop_counts()
    return sum(counts.get(type(unet).__name__, {}).values())


def _matmul_rate() -> float:
    """FLOP/s of a large float16 matrix product that fits every GPU."""
    size = 8192
    left = torch.randn(size, size, device="cuda", dtype=torch.float16)
    for _ in range(3):
        left @ left
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        left @ left
    torch.cuda.synchronize()
    return 20 * 2 * size**3 / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
