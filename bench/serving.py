"""Measure the overhead of serving: the bare pipeline and the server, in turns, in one run.

``python -m bench.serving`` prints the figures and writes them to ``bench/results/serving.json``.
Both generate the same pictures with the demo model one after another, so the ratio is portable; the
seconds hold only for the machine that the results name.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path

from demo.run import NAME, VOLUME, ask, free_port, publish, server
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines.whole import DiffusersPipeline
from predictor.settings import Settings

ROOT = Path(__file__).resolve().parent.parent

PROMPT = "a red circle on a blue background"
RESULTS = ROOT / "bench" / "results" / "serving.json"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=5, help="pictures of each per round")
    options = parser.parse_args()
    publish(NAME, VOLUME)
    pipeline = load_pipeline(Checkpoint.read(VOLUME / NAME), Settings())
    started = time.perf_counter()
    with server(free_port()) as url:
        seconds_to_ready = time.perf_counter() - started
        bare, served = _measure(pipeline, url, options.rounds, options.pictures)
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "pictures_each": len(bare),
        "seconds_to_ready": round(seconds_to_ready, 2),
        "bare_median_seconds": round(statistics.median(bare), 4),
        "served_median_seconds": round(statistics.median(served), 4),
        "served_to_bare": round(statistics.median(served) / statistics.median(bare), 3),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _measure(
    pipeline: DiffusersPipeline, url: str, rounds: int, pictures: int
) -> tuple[list[float], list[float]]:
    """Seconds per picture of both, in alternating blocks so that noise affects both alike."""
    bare: list[float] = []
    served: list[float] = []
    for _ in range(rounds):
        bare += [_timed_bare(pipeline, seed) for seed in range(pictures)]
        served += [_timed_served(url, seed) for seed in range(pictures)]
    return bare, served


def _timed_bare(pipeline: DiffusersPipeline, seed: int) -> float:
    request = replace(pipeline.profile.default_request(PROMPT), seed=seed)
    started = time.perf_counter()
    pipeline.generate([request], lambda step, steps: None)
    return time.perf_counter() - started


def _timed_served(url: str, seed: int) -> float:
    started = time.perf_counter()
    ask(url, PROMPT, seed)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
