"""Measure the server at several times the load that it can serve.

``python -m bench.overload`` prints the figures and writes them to ``bench/results/overload.json``.
One server process, the demo model and requests of 10 to 50 steps. Another process sends the load,
and this one probes the server's health meanwhile. In one run:

- capacity: the denoising steps a second that the server takes for enough users to fill its batch,
  before, between and after the overloads, with the same probes;
- the load at 90 % of it, as Poisson arrivals;
- open loop: Poisson arrivals of ``--factor`` times the capacity, which do not slow down;
- closed loop: ``--factor`` times as many users, who wait for ``retry-after``.

The server's settings are those of a service that prefers short answers to long queues: lanes up to
the size where larger batches add little throughput and much latency, and a short queue.

The engine gets all cores but one. With all of them, every latency on a small machine would be the
time that the operating system takes to give the server's event loop a core. On a machine with a GPU
the engine leaves the cores to the event loop too. That is what "quiet CPU" means in the results.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx

from bench.figures import Figures, percentile
from bench.load import Outcome, Run, bodies, patient_users, poisson
from demo.run import NAME, VOLUME, free_port, publish, server

RESULTS = Path(__file__).resolve().parent / "results" / "overload.json"

MIXED = (10, 20, 30, 40, 50)
# The share of a load that passes before it counts: the queue has to fill.
_RAMP = 0.1
_PROBE_SECONDS = 0.05
REFUSED = 429
# The goals, and whether more is better.
TARGETS = {
    "goodput_to_capacity": (0.95, True),
    "p95_to_90_percent": (1.2, False),
    "refusal_p99": (0.05, False),
    "health_p99": (0.1, False),
    "resets": (0, False),
    "errors": (0, False),
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120, help="the length of each overload")
    parser.add_argument("--factor", type=float, default=5, help="times the capacity")
    parser.add_argument("--steps", type=int, nargs="+", default=MIXED, help="of the requests")
    parser.add_argument("--max-lanes", type=int, default=8)
    parser.add_argument("--max-queue-seconds", type=float, default=0.1)
    options = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) - 1)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["PREDICTOR_MAX_LANES"] = str(options.max_lanes)
    os.environ["PREDICTOR_MAX_QUEUE_SECONDS"] = str(options.max_queue_seconds)
    publish(NAME, VOLUME)
    with server(free_port()) as url:
        figures = measure(url, options.seconds, options.factor, tuple(options.steps))
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "engine_threads": threads,
        "max_lanes": options.max_lanes,
        "max_queue_seconds": options.max_queue_seconds,
        "seconds": options.seconds,
        "factor": options.factor,
        "steps": options.steps,
        **figures,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    for section in ("open", "closed"):
        for name, (target, more_is_better) in TARGETS.items():
            value = figures[section][name]
            is_met = value >= target if more_is_better else value <= target
            print(f"{section:8}{name:24}{value:10.4g}  {'met' if is_met else 'NOT met'}: {target}")


def measure(url: str, seconds: float, factor: float, steps: Sequence[int]) -> Figures:
    """All loads in turn, against one server."""
    users = _slots(url)

    def capacity() -> float:
        run, _ = _with_probes(url, lambda: closed_loop(url, users, seconds / 4, steps))
        return goodput(run, seconds / 4)

    closed_loop(url, users, seconds / 10, steps)  # warm-up
    capacities = [capacity()]
    rate = capacities[0] / fmean(steps)
    normal = open_loop(url, 0.9 * rate, seconds, steps)
    loads: dict[str, Callable[[], Run]] = {
        "open": lambda: open_loop(url, factor * rate, seconds, steps),
        "closed": lambda: closed_loop(url, round(factor * users), seconds, steps),
    }
    runs: dict[str, tuple[Run, list[float]]] = {}
    for name, load in loads.items():
        runs[name] = _with_probes(url, load)
        capacities.append(capacity())
    p95 = _percentile(_latencies(normal, seconds * _RAMP), 0.95)
    return {
        "users": users,
        "capacity": round(fmean(capacities), 1),
        "capacities": [round(one, 1) for one in capacities],
        "at_90_percent": {"p95": round(p95, 3)} | _counts(normal.outcomes),
        **{
            name: overload(*run, seconds, capacity=fmean(capacities), p95=p95)
            for name, run in runs.items()
        },
    }


def overload(
    run: Run, probes: Sequence[float], seconds: float, *, capacity: float, p95: float
) -> Figures:
    """The figures of a load of ``seconds``; ``p95`` is the one at 90 % load."""
    refusals = [one.seconds for one in run.outcomes if one.status == REFUSED]
    served = _latencies(run, seconds * _RAMP)
    figures = {
        "goodput": goodput(run, seconds),
        "goodput_to_capacity": goodput(run, seconds) / capacity,
        "p50": _percentile(served, 0.5),
        "p95": _percentile(served, 0.95),
        "p95_to_90_percent": _percentile(served, 0.95) / p95,
        "refusal_p50": _percentile(refusals, 0.5),
        "refusal_p99": _percentile(refusals, 0.99),
        "health_p50": _percentile(probes, 0.5),
        "health_p99": _percentile(probes, 0.99),
    }
    return {name: round(value, 4) for name, value in figures.items()} | _counts(run.outcomes)


def goodput(run: Run, seconds: float) -> float:
    """Denoising steps a second of the pictures that were served, after the ramp of the load.

    Steps vary less than pictures, which have 10 to 50 of them.
    """
    begun = seconds * _RAMP
    done = [one for one in run.outcomes if one.error is None and begun <= one.ended <= seconds]
    return sum(one.steps for one in done) / (seconds - begun)


def open_loop(url: str, rate: float, seconds: float, steps: Sequence[int]) -> Run:
    """Poisson arrivals of ``rate`` requests a second, from another process."""
    return _elsewhere(_open_loop, url, rate, seconds, steps)


def closed_loop(url: str, users: int, seconds: float, steps: Sequence[int]) -> Run:
    """Users who send one request after another, from another process."""
    return _elsewhere(_closed_loop, url, users, seconds, steps)


def _open_loop(url: str, rate: float, seconds: float, steps: Sequence[int]) -> Run:
    return poisson(_address(url), bodies(steps), rate, seconds, seed=0)


def _closed_loop(url: str, users: int, seconds: float, steps: Sequence[int]) -> Run:
    return patient_users(_address(url), bodies(steps), users, seconds)


def _elsewhere(load: Callable[..., Run], *arguments: Any) -> Run:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(load, *arguments).result()


def _with_probes(url: str, load: Callable[[], Run]) -> tuple[Run, list[float]]:
    """The outcomes of a load, and the seconds of each health probe meanwhile."""
    probes: list[float] = []
    # The thread only waits for the process that sends the load.
    with ThreadPoolExecutor(1) as thread, httpx.Client(timeout=60) as client:
        running = thread.submit(load)
        while not running.done():
            begun = time.perf_counter()
            client.get(f"{url}/v2/health/live").raise_for_status()
            probes.append(time.perf_counter() - begun)
            time.sleep(_PROBE_SECONDS)
        return running.result(), probes


def _address(url: str) -> str:
    return f"{url}/v1/models/{NAME}:predict"


def _slots(url: str) -> int:
    """The pictures that fill the server's batch."""
    line = f'diffusion_lanes{{model_name="{NAME}"}} '
    text = httpx.get(f"{url}/metrics").text
    return max(8, round(float(text.partition(line)[2].splitlines()[0])) // 2)


def _latencies(run: Run, after: float = 0.0) -> list[float]:
    return [one.seconds for one in run.outcomes if one.error is None and one.ended >= after]


def _percentile(values: Sequence[float], part: float) -> float:
    return percentile(values, part) if values else 0.0


def _counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Of all requests, those refused, those that failed, and those without an answer."""
    statuses = [one.status for one in outcomes]
    resets, refused = statuses.count(0), statuses.count(REFUSED)
    failed = len(statuses) - statuses.count(200) - refused - resets
    return {"requests": len(statuses), "refused": refused, "errors": failed, "resets": resets}


if __name__ == "__main__":
    main()
