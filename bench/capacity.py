"""Show how quickly the engine learns its batch size, and that it finds what a measurement finds.

``python -m bench.capacity`` runs the step loop under full load, with the demo model and with a UNet
that is bound by arithmetic. It prints each bound with the seconds until the engine has settled on
it. Then it measures the same denoiser, alone, batch after batch, and prints the throughput of the
learned size as a share of that of the measured one. The result is in
``bench/results/capacity.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import platform
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.random_models import large_on_a_cpu
from demo.run import publish
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.engine.batch_searches import Start
from predictor.engine.capacity import measured_capacity
from predictor.engine.interfaces import Denoiser, Lane
from predictor.engine.step_loop import StepEngine
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines.stepwise import denoiser_for
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationDefaults, GenerationRequest, ModelProfile
from predictor.settings import Settings

RESULTS = Path(__file__).resolve().parent / "results" / "capacity.json"
USERS = 40
ROUNDS = 4
_LARGE = ModelProfile("any", GenerationDefaults(256, 256, 10, 2.0, "unipc"), 8, ("unipc",))
# The rule of the engine: a doubled batch must raise throughput by a tenth.
_LEAST_GAIN = 1.1


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="of load for each model")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # With the most lanes; large batches of the second one would take minutes to measure.
    models = {"demo model": (demo_model(), 64), "28 M weights at 256x256": (_large(), 16)}
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "load_seconds": options.seconds,
        "models": {
            name: figures(model, options.seconds, max_lanes)
            for name, (model, max_lanes) in models.items()
        },
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def figures(model: DiffusersPipeline, seconds: float, max_lanes: int) -> dict[str, Any]:
    """What the engine has learned and when, and the throughput of each size in a measurement."""
    denoiser, request = denoiser_for(model), model.profile.default_request("any")
    learned = _learned(denoiser, request, seconds, max_lanes)
    measured = _measured(denoiser, request, max_lanes)
    rates = measured["guided_steps_a_second"]
    share = rates[str(learned["lanes"])] / rates[str(measured["lanes"])]
    return learned | {"measured": measured, "learned_to_measured": round(share, 3)}


def _learned(
    denoiser: Denoiser, request: GenerationRequest, seconds: float, max_lanes: int
) -> dict[str, Any]:
    ends: list[tuple[float, int]] = []
    started = time.perf_counter()
    start = Start(
        *(2, max_lanes), on_learned=lambda lanes: ends.append((time.perf_counter(), lanes))
    )
    capacity = measured_capacity(denoiser, request, start)
    engine = StepEngine(denoiser, capacity, max_queue_length=1_000)
    ready = time.perf_counter()

    async def use(user: int) -> None:
        while True:
            await engine.submit(replace(request, seed=user))

    async def use_all() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*map(use, range(USERS)))

    asyncio.run(use_all())
    engine.close()
    return {
        "seconds_to_ready": round(ready - started, 2),
        "learned": [{"seconds": round(at - ready, 1), "lanes": lanes} for at, lanes in ends],
        "lanes": capacity.lanes,
        "changes": dict(capacity.changes),
    }


@torch.inference_mode()
def _measured(denoiser: Denoiser, request: GenerationRequest, max_lanes: int) -> dict[str, Any]:
    """Guided steps a second by lanes, in rounds over all sizes, and the bound that follows."""
    denoising = denoiser.begin(request)
    model_input = denoising.model_input()
    pair = [Lane(denoising, model_input, one) for one in denoiser.encode(["", request.prompt])]
    sizes = [2 << power for power in range(max_lanes.bit_length()) if 2 << power <= max_lanes]
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for round_ in range(ROUNDS + 1):
        for size in sizes:
            started = time.perf_counter()
            denoiser.predict(pair * (size // 2))
            # The first run of a size selects kernels and allocates memory.
            if round_:
                times[size].append(time.perf_counter() - started)
    rates = {size: size / 2 / median(times[size]) for size in sizes}
    best = sizes[0]
    for size in sizes[1:]:
        if size <= 4 * best and rates[size] >= _LEAST_GAIN * rates[best]:
            best = size
    rounded = {str(size): round(rate, 2) for size, rate in rates.items()}
    return {"lanes": best, "guided_steps_a_second": rounded}


def demo_model() -> DiffusersPipeline:
    """The demo model, published to a temporary volume and loaded."""
    with tempfile.TemporaryDirectory() as volume:
        return load_pipeline(Checkpoint.read(publish("demo", Path(volume))), Settings())


def _large() -> DiffusersPipeline:
    torch.manual_seed(0)
    pipeline: Any = large_on_a_cpu()
    pipeline.set_progress_bar_config(disable=True)
    return DiffusersPipeline(pipeline, _LARGE)


if __name__ == "__main__":
    main()
