"""Sharing steps against one picture after another: both engines on the demo model, in turns.

``python bench/engine.py`` prints the figures and writes them to ``bench/results/engine.json``. Each
round gives the same requests to both engines at once, so the ratios hold wherever they are
measured; the seconds hold only for the machine that is named beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import platform
import random
import statistics
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Run as a script, Python puts bench/ on the path and not the repository.
sys.path.insert(0, str(ROOT))

from demo.run import NAME, VOLUME, publish  # noqa: E402
from demo.shapes import all_scenes  # noqa: E402
from predictor.engine import Engine, SerialEngine  # noqa: E402
from predictor.engine_choice import open_engine  # noqa: E402
from predictor.pipeline import DiffusersPipeline, load_pipeline  # noqa: E402
from predictor.settings import Settings  # noqa: E402
from predictor.types import GenerationRequest  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "engine.json"
SHORT_STEPS, LONG_STEPS = 4, 50

_engine: Engine
_pipeline: DiffusersPipeline


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--users", type=int, default=16)
    options = parser.parse_args()
    publish(NAME, VOLUME)
    spawn = multiprocessing.get_context("spawn")
    # A process each: OpenMP's thread pools of two engines in one would slow each other down.
    with (
        ProcessPoolExecutor(1, spawn, _open, ("serial",)) as serial,
        ProcessPoolExecutor(1, spawn, _open, ("steps",)) as steps,
    ):
        result = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "users": options.users,
            "rounds": options.rounds,
            **{
                f"{load}_seconds": _compare(serial, steps, load, options)
                for load in ("lone", "equal", "mixed", "short")
            },
        }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _compare(
    serial: Executor, steps: Executor, load: str, options: argparse.Namespace
) -> dict[str, float]:
    """Medians of the seconds of each engine, the engines in turns, and their ratio."""
    seconds: dict[str, list[float]] = {"serial": [], "steps": []}
    for _ in range(options.rounds):
        for name, process in (("serial", serial), ("steps", steps)):
            seconds[name].append(process.submit(_run, load, options.users).result())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["steps"] / medians["serial"]
    return {name: round(value, 3) for name, value in medians.items()} | {"ratio": round(ratio, 3)}


def _open(name: str) -> None:
    """Load as the server does, in a thread that ends."""
    with ThreadPoolExecutor(1) as loader:
        loader.submit(_load, name).result()


def _load(name: str) -> None:
    global _engine, _pipeline  # noqa: PLW0603 - a worker process holds one engine for all its loads
    settings = Settings(model_dir=VOLUME / NAME)
    _pipeline = load_pipeline(settings)
    if name == "serial":
        _engine = SerialEngine(_pipeline, settings.max_queue_length)
    else:
        _engine = open_engine(_pipeline, settings)


def _run(load: str, users: int) -> float:
    """Seconds that the load took, in the process of one engine."""
    if load == "short":
        return _short(_engine, _pipeline, users)
    if load == "lone":
        return _crowd(_engine, _equal(_pipeline, 1))
    return _crowd(_engine, {"equal": _equal, "mixed": _mixed}[load](_pipeline, users))


def _equal(pipeline: DiffusersPipeline, users: int) -> list[GenerationRequest]:
    request = pipeline.profile.default_request
    scenes = itertools.islice(all_scenes(), users)
    return [replace(request(scene.prompt), seed=seed) for seed, scene in enumerate(scenes)]


def _mixed(pipeline: DiffusersPipeline, users: int) -> list[GenerationRequest]:
    rng = random.Random(0)
    return [
        replace(request, num_inference_steps=rng.randint(10, LONG_STEPS))
        for request in _equal(pipeline, users)
    ]


def _crowd(engine: Engine, requests: list[GenerationRequest]) -> float:
    """Seconds until the last of the requests is done."""

    async def all_at_once() -> None:
        await asyncio.gather(*[engine.submit(request) for request in requests])

    started = time.perf_counter()
    asyncio.run(all_at_once())
    return time.perf_counter() - started


def _short(engine: Engine, pipeline: DiffusersPipeline, users: int) -> float:
    """Seconds of a short request that comes when long ones are under way."""
    *long, short = _equal(pipeline, users)
    long = [replace(request, num_inference_steps=LONG_STEPS) for request in long]
    short = replace(short, num_inference_steps=SHORT_STEPS)

    async def among() -> float:
        others = [asyncio.create_task(engine.submit(request)) for request in long]
        await asyncio.sleep(0.1)
        started = time.perf_counter()
        await engine.submit(short)
        seconds = time.perf_counter() - started
        await asyncio.gather(*others)
        return seconds

    return asyncio.run(among())


if __name__ == "__main__":
    main()
