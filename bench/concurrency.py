"""Compare the bare pipeline, whole-request batches and the step loop under concurrent callers.

``python -m bench.concurrency [SECTION ...]`` measures over HTTP, prints a table and writes
``bench/results/concurrency.json`` and ``.svg``. Within each round, all contestants take turns and
get the same requests, so the ratios are portable; the seconds hold only for the machine that the
results name.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.contestants import BARE, MUSE, OURS, Contestant, Running, running
from bench.figures import ratios, summary, table
from bench.load import Run, bodies, closed_loop, poisson, short_among_long
from demo.run import NAME, VOLUME, publish

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "concurrency.json"
SCRATCH = ROOT / "demo" / "output"

# Only a few step counts between 10 and 50, so that whole batches find matching requests.
MIXED = (10, 20, 30, 40, 50)
ROUNDS = 5
CROWD = 16

Figures = dict[str, Any]


def main() -> None:
    """Measure the named sections, or all of them, and draw the chart of all results so far."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    names = parser.parse_args().sections or list(SECTIONS)
    publish(NAME, VOLUME)
    for name in names:
        print(f"== {name}", flush=True)
        figures = SECTIONS[name]()
        _write(name, figures)
        print(table(name, figures), flush=True)
    from bench.plot import draw

    draw(known(), RESULTS.with_suffix(".svg"))


def known() -> Figures:
    """The results of all sections measured so far."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def _write(name: str, figures: Figures) -> None:
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    stamp = {"machine": machine, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    RESULTS.write_text(json.dumps({**known(), name: stamp | figures}, indent=1) + "\n")


def tune() -> Figures:
    """Find the best size and window of whole batches at 16 users with mixed step counts."""
    found: Figures = {}
    for size, window in itertools.product((4, 8, 16), (0.0, 0.1, 0.5)):
        contestant = Contestant("tuned", "window", size, window)
        with _all_running(contestant) as servers:
            run = closed_loop(servers[0].address, bodies(MIXED), CROWD, 4)
        found[f"size {size}, window {window:g} s"] = summary([run])
    best = max(found, key=lambda name: found[name]["images_per_second"])
    size, window = (float(part.split()[1]) for part in best.split(", "))
    return {"contestants": found, "best": {"size": int(size), "window": window}}


def _tuned() -> Contestant:
    best = known()["tune"]["best"]
    return Contestant("tuned", "window", best["size"], best["window"])


def lone() -> Figures:
    """One user, 20 steps each time."""
    return _closed((BARE, _tuned(), OURS), users=1, rounds_each=10, steps=(20,))


def crowd() -> Figures:
    """16 users, mixed step counts: the figures of the README's first claim."""
    return _closed((BARE, _tuned(), OURS), users=CROWD, rounds_each=2)


def alike() -> Figures:
    """16 users, all at 20 steps: the best case for whole batches."""
    return _closed((BARE, _tuned(), OURS), users=CROWD, rounds_each=3, times=3, steps=(20,))


def few() -> Figures:
    """5 and 10 users, mixed step counts."""
    parts = [
        _closed((BARE, _tuned(), OURS), users=users, rounds_each=3, times=2) for users in (5, 10)
    ]
    return {"5 users": parts[0], "10 users": parts[1]}


def muse() -> Figures:
    """Whole batches as in Muse against the step loop: 1, 16 and 100 users."""
    return {
        name: _closed((MUSE, OURS), users=int(name.split()[0]), rounds_each=each, times=1)
        for name, each in (("1 user", 3), (f"{CROWD} users", 2), ("100 users", 1))
    }


def hundred() -> Figures:
    """100 users, mixed step counts."""
    return _closed((BARE, _tuned(), OURS), users=100, rounds_each=1, times=1)


def burst() -> Figures:
    """300 simultaneous requests, mixed step counts."""
    return _closed((BARE, _tuned(), OURS), users=300, rounds_each=1, times=1)


def steady() -> Figures:
    """Poisson arrivals at 80 % of the step loop's capacity."""
    return _poisson(0.8, ROUNDS)


def steadier() -> Figures:
    """Poisson arrivals at 50 and 95 % of the step loop's capacity."""
    return {"50 %": _poisson(0.5, 1), "95 %": _poisson(0.95, 1)}


def short() -> Figures:
    """4-step requests while 16 users send 50-step requests without a pause."""

    def load(server: Running, number: int) -> Run:
        long, brief = bodies((50,), seed=number), bodies((4,), seed=number)
        outcomes = short_among_long(server.address, long, brief, CROWD, times=2)
        return Run(outcomes, sum(outcome.seconds for outcome in outcomes))

    return _in_turns((BARE, _tuned(), OURS), load, ROUNDS)


def large() -> Figures:
    """16 users of a UNet that is bound by arithmetic, 4 to 12 steps."""
    from bench.random_models import large_on_a_cpu

    _publish("large", large_on_a_cpu)
    best = Contestant("tuned", "window", 4, 0.0)

    def load(server: Running, number: int) -> Run:
        return closed_loop(server.address, bodies((4, 8, 12), seed=number), CROWD, 1)

    return _in_turns((BARE, best, OURS), load, 2, model="large")


def transformers() -> Figures:
    """16 users of small SD3 and FLUX shapes with random weights, mixed step counts."""
    from bench.random_models import flux_on_a_cpu, stable_diffusion_3_on_a_cpu

    _publish("sd3", stable_diffusion_3_on_a_cpu)
    # FLUX's configuration does not say its size.
    _publish("flux", flux_on_a_cpu, '{"width": 128, "height": 128}')

    def load(server: Running, number: int) -> Run:
        return closed_loop(server.address, bodies(MIXED, seed=number), CROWD, 2)

    return {
        name: _in_turns((BARE, _tuned(), OURS), load, 2, model=model)
        for name, model in (("SD3 shapes", "sd3"), ("FLUX shapes", "flux"))
    }


def memory() -> Figures:
    """Memory of the step loop's process after 200 and after 2,000 requests."""
    with _all_running(OURS) as (server,):
        requests = bodies((2, 4, 6))
        runs = [closed_loop(server.address, requests, 20, 10)]
        after_200 = server.resident_bytes()
        runs.append(closed_loop(server.address, requests, 20, 90))
        after_2000 = server.resident_bytes()
    return {
        "contestants": {OURS.name: summary(runs)},
        "mib_after_200": round(after_200 / 2**20, 1),
        "mib_after_2000": round(after_2000 / 2**20, 1),
        "growth": round(after_2000 / after_200 - 1, 4),
    }


def _publish(name: str, build: Callable[[], DiffusionPipeline], defaults: str = "{}") -> None:
    """Publish a pipeline with random weights; ``defaults`` are its generation defaults."""
    from bench.random_models import save

    source = SCRATCH / f"{name}-source"
    save(build, source)
    (source / "generation_defaults.json").write_text(defaults)
    flags = [f"--source={source.as_uri()}", f"--name={name}", f"--target={VOLUME}"]
    subprocess.run([sys.executable, "-m", "downloader", *flags], cwd=ROOT, check=True)


def _closed(
    contestants: tuple[Contestant, ...],
    users: int,
    rounds_each: int,
    times: int = ROUNDS,
    steps: tuple[int, ...] = MIXED,
) -> Figures:
    def load(server: Running, number: int) -> Run:
        return closed_loop(server.address, bodies(steps, seed=number), users, rounds_each)

    return _in_turns(contestants, load, times)


def _poisson(part: float, times: int) -> Figures:
    rate = part * _capacity()

    def load(server: Running, number: int) -> Run:
        return poisson(server.address, bodies(MIXED, seed=number), rate, seconds=20, seed=number)

    return {"rate": round(rate, 2), **_in_turns((BARE, _tuned(), OURS), load, times)}


def _capacity() -> float:
    """The step loop's highest measured rate at mixed step counts, in pictures a second."""
    parts = known()["crowd"], known()["hundred"]
    return float(max(part["contestants"]["ours"]["images_per_second"] for part in parts))


def _in_turns(
    contestants: tuple[Contestant, ...],
    load: Callable[[Running, int], Run],
    times: int,
    model: str = NAME,
) -> Figures:
    """Put the same load on each contestant in turn, for several rounds."""
    runs: dict[str, list[Run]] = {contestant.name: [] for contestant in contestants}
    with _all_running(*contestants, model=model) as servers:
        for server in servers:
            closed_loop(server.address, bodies((4,)), 2, 2)
        for number in range(times):
            for server in servers:
                runs[server.contestant.name].append(load(server, number))
    figures = {name: summary(of) for name, of in runs.items()}
    return {"rounds": times, "contestants": figures, "ratios": ratios(runs, median)}


@contextlib.contextmanager
def _all_running(*contestants: Contestant, model: str = NAME) -> Iterator[list[Running]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(running(contestant, VOLUME / model, SCRATCH))
            for contestant in contestants
        ]


SECTIONS: dict[str, Callable[[], Figures]] = {
    section.__name__: section
    for section in (
        *(tune, lone, crowd, alike, few, hundred, burst, muse),
        *(steady, steadier, short, large, transformers, memory),
    )
}


if __name__ == "__main__":
    main()
