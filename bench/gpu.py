"""Compare diffusers with the step loop on one NVIDIA GPU, row by row.

``python -m bench.gpu`` takes at most 8 minutes (``--minutes``). It builds pipelines with the shapes
of Stable Diffusion 1.5 at 512x512 and SDXL at 1024x1024, in bfloat16 with random weights. Each row
is printed and written to ``bench/results/gpu.json`` as soon as it is measured, so a run that is
stopped keeps its rows. Compilation takes minutes, so the compiled rows of all shapes come last.
Without a GPU it prints a notice and exits, except with ``--shapes tiny``, which tries the benchmark
out.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import DiffusionPipeline
from torch.utils.flop_counter import FlopCounterMode

from bench.device_times import (
    Figures,
    matmul_rate,
    peak_gib,
    rate,
    rates,
    seconds_of,
    timed_passes,
)
from bench.random_models import stable_diffusion_1_5, stable_diffusion_xl, tiny
from predictor.engine.batch_searches import Start
from predictor.engine.capacity import measured_capacity, step_once
from predictor.engine.step_loop import StepEngine
from predictor.loading.convolutions import choose_convolutions, set_layout
from predictor.loading.graph_capture import can_capture, capture_graphs, example_pass
from predictor.pipelines.compiled_forward import CompiledForward
from predictor.pipelines.cuda_graphs import CudaGraphs
from predictor.pipelines.stepwise import denoiser_for
from predictor.pipelines.tuning import Tuning
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationDefaults, GenerationRequest, ModelProfile
from predictor.settings import Settings

RESULTS = Path(__file__).resolve().parent / "results" / "gpu.json"
MODES = ("diffusers", "eager", "graphs", "compiled")
CROWD = 16
# Guidance differs between the mixed requests too.
MIXED_SCHEDULERS = ("unipc", "euler", "dpmpp_2m", "ddim")

Row = tuple[str, Figures]


class Model(NamedTuple):
    """``side`` is in pixels; mixed requests take from half of ``steps`` to 2.5 times as many."""

    build: Callable[[], DiffusionPipeline]
    side: int
    steps: int


MODELS = {
    "sd15-512": Model(stable_diffusion_1_5, 512, 20),
    "sdxl-1024": Model(stable_diffusion_xl, 1024, 20),
    "tiny": Model(tiny, 64, 2),
}


def main() -> int:
    """Measure row by row until all are done or the time is over; return 1 if a row failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=7.5, help="without imports")
    parser.add_argument("--shapes", nargs="+", choices=MODELS, default=["sd15-512", "sdxl-1024"])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    options = parser.parse_args()
    if not torch.cuda.is_available() and options.shapes != ["tiny"]:
        print("torch finds no GPU here; nothing is measured")
        return 0
    with _time_limit(60 * options.minutes):
        return _measure(options.shapes, options.modes)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """End the process after this time, even within a row."""

    def end() -> None:
        print("the time is over", flush=True)
        os._exit(0)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _measure(shapes: Sequence[str], modes: Sequence[str]) -> int:
    multiplies = matmul_rate()
    result: Figures = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "torch": torch.__version__,
        "matmul_tflops": round(multiplies / 1e12, 1),
    }
    has_failed = False
    for name, some in _groups(shapes, modes):
        rows = result.setdefault(name, {})
        try:
            for row, figures in Shape(MODELS[name], multiplies).rows(some):
                rows[row] = figures
                print(f"{name} {row} {json.dumps(figures)}", flush=True)
                _write(result)
        except Exception:
            # Such as out of memory: the next group may still fit.
            traceback.print_exc()
            has_failed = True
        gc.collect()
        torch.cuda.empty_cache()
    return int(has_failed)


def _groups(shapes: Sequence[str], modes: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Which modes to measure of which shapes, in order."""
    for is_last in (False, True):
        some = [one for one in modes if (one == "compiled") == is_last]
        if some:
            yield from ((name, some) for name in shapes)


def _write(result: Figures) -> None:
    """Replace the file at once, because the process may end meanwhile."""
    if torch.cuda.is_available():
        device = {"device": torch.cuda.get_device_name()}
        written = RESULTS.with_suffix(".tmp")
        written.write_text(json.dumps(device | result, indent=1) + "\n")
        written.replace(RESULTS)


class Shape:
    """One pipeline on the device, and what is measured with it."""

    def __init__(self, model: Model, matmul_rate: float) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(0)
        with torch.device(device):
            built = model.build()
        built = built.to(device, torch.bfloat16 if device == "cuda" else torch.float32)
        built.set_progress_bar_config(disable=True)
        defaults = GenerationDefaults(model.side, model.side, model.steps, 7.5, "unipc")
        profile = ModelProfile("random", defaults, 8, MIXED_SCHEDULERS)
        self._matmul_rate = matmul_rate
        self._pipeline = DiffusersPipeline(built, profile)
        self._denoiser = denoiser_for(self._pipeline)
        self._request = profile.default_request("a red circle")
        self._mixed = [
            replace(
                self._request,
                seed=seed,
                num_inference_steps=model.steps * (1 + seed % 5) // 2,
                scheduler=MIXED_SCHEDULERS[seed % len(MIXED_SCHEDULERS)],
                guidance_scale=5.0 + seed % 4,
            )
            for seed in range(CROWD)
        ]
        self._flops = 0

    def rows(self, modes: Sequence[str]) -> Iterator[Row]:
        """Each row and its figures; rates are in pictures a second."""
        # Before compilation, which hides the modules from the counter.
        self._flops = _flops_of_a_guided_step(self._pipeline)
        yield "unet", {"tflop_a_guided_step": round(self._flops / 1e12, 6)}
        if "diffusers" in modes:
            self._start_over()
            yield "diffusers", self._diffusers_alone()
            yield "diffusers, 16 mixed one after another", self._one_after_another()
            yield "diffusers, memory", {"peak_gib": peak_gib()}
        if "eager" in modes:
            yield from self._ours("eager", dict)
        if "graphs" in modes:
            yield from self._ours("graphs", self._capture)
        if "compiled" in modes:
            self._start_over()
            self._pipeline.diffusers.unet.compile()
            seconds = seconds_of(lambda: _own_calls(self._pipeline, [self._request]))
            yield "diffusers compiled", self._diffusers_alone() | {"start_s": round(seconds)}
            yield from self._ours("compiled", self._compile)

    def _ours(self, mode: str, prepare: Callable[[], Figures]) -> Iterator[Row]:
        """The rows of the step loop after ``prepare``."""
        self._start_over()
        started = time.perf_counter()
        found = prepare()
        seconds = round(time.perf_counter() - started, 1)
        capacity = measured_capacity(self._denoiser, self._request, Start(2, largest=64))
        engine = StepEngine(self._denoiser, capacity, max_queue_length=1_000)
        try:
            # The engine learns how many lanes pay off.
            self._crowd(engine, self._mixed)
            figures = {"lanes": capacity.lanes, "steps_per_decode": capacity.steps_per_decode}
            yield f"ours {mode}, start", {"start_s": seconds} | found | figures
            yield f"ours {mode}", rates(lambda: _together(engine, [self._request]), 1)
            yield f"ours {mode}, 16 mixed", self._crowd(engine, self._mixed)
            for users in (1, CROWD):
                yield f"ours {mode}, a turn of {users}", self._turn(engine, users)
        finally:
            engine.close()
        yield f"ours {mode}, memory", {"peak_gib": peak_gib()}

    def _start_over(self) -> None:
        """Forget graphs, compiled code and the peak of the memory."""
        torch._dynamo.reset()
        self._pipeline.diffusers.unet._compiled_call_impl = None
        set_layout(self._pipeline.diffusers.unet, channels_last=False)
        self._pipeline.graphs = CudaGraphs()
        self._pipeline.tuning = Tuning()
        self._denoiser = denoiser_for(self._pipeline)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _capture(self) -> Figures:
        """As ``predictor.loading.engine`` does; the differences of graphs from eager passes."""
        if not can_capture(self._pipeline):
            return {"graphs": {}}
        settings, unet = Settings(), self._pipeline.diffusers.unet
        convolutions = choose_convolutions(self._pipeline, self._denoiser, settings)
        set_layout(unet, channels_last=convolutions.channels_last)
        kept = capture_graphs(
            self._pipeline, self._denoiser, settings, searches=convolutions.searches
        )
        (lanes,) = kept.values()
        differences = {one: self._difference(one) for one in lanes}
        return convolutions._asdict() | {"graphs": differences}

    @torch.inference_mode()
    def _difference(self, lanes: int) -> float:
        """The largest difference of a graph from an eager pass, of its largest value."""
        example = example_pass(self._pipeline, self._denoiser, self._request).resized(lanes)
        given = example.map(lambda one: torch.randn_like(one) * one.abs().amax())
        eager = given.run(self._pipeline.diffusers.unet).float()
        replayed = self._pipeline.graphs.run(self._pipeline.diffusers.unet, given).float()
        return float((replayed - eager).abs().amax() / eager.abs().amax())

    def _compile(self) -> Figures:
        """As ``predictor.loading.compilation`` does, and then graphs of the compiled code."""
        self._pipeline.tuning = Tuning(compile=True)
        with CompiledForward(self._pipeline.diffusers.unet).compiling():
            for lanes in (2, 1):
                step_once(self._denoiser, self._request, lanes)
        return self._capture()

    def _diffusers_alone(self) -> Figures:
        return rates(lambda: _own_calls(self._pipeline, [self._request]), 1)

    def _one_after_another(self) -> Figures:
        seconds = seconds_of(lambda: _own_calls(self._pipeline, self._mixed))
        return rate(CROWD, seconds)

    def _crowd(self, engine: StepEngine, requests: list[GenerationRequest]) -> Figures:
        # Selects kernels and allocates memory.
        _together(engine, [replace(one, num_inference_steps=2) for one in requests])
        return rate(len(requests), seconds_of(lambda: _together(engine, requests)))

    def _turn(self, engine: StepEngine, users: int) -> Figures:
        """Milliseconds of a turn in the UNet and outside, and the FLOP/s of the UNet.

        The difference between requests of many and of few steps leaves out text and decoding.
        """
        steps = self._request.num_inference_steps
        few = max(1, steps // 5)
        short, long = (self._timed(engine, users, number) for number in (few, steps))
        turn, unet = ((long[n] - short[n]) / (steps - few) for n in (0, 1))
        flops = long.lanes * self._flops / 2 / (long.unet_ms / 1000)
        return {
            "turn_ms": round(turn, 3),
            "unet_ms": round(unet, 3),
            "outside_ms": round(turn - unet, 3),
            "achieved_tflops": round(flops / 1e12, 6),
            "of_matmul": round(flops / self._matmul_rate, 3),
        } | rate(users, long.total_ms / 1000)

    def _timed(self, engine: StepEngine, users: int, steps: int) -> Timed:
        crowd = [
            replace(self._request, seed=seed, num_inference_steps=steps) for seed in range(users)
        ]
        with timed_passes(self._pipeline.graphs) as passes:
            seconds = seconds_of(lambda: _together(engine, crowd))
        unet_ms = sum(one.milliseconds for one in passes)
        return Timed(1000 * seconds, unet_ms, sum(one.lanes for one in passes))


class Timed(NamedTuple):
    """A crowd: its milliseconds, those of the UNet, and the lanes of all passes."""

    total_ms: float
    unet_ms: float
    lanes: int


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


if __name__ == "__main__":
    sys.exit(main())
