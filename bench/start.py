"""Measure a start by phase, from exec to the first picture, against a naive KServe predictor.

``python -m bench.start`` prints the figures and writes them to ``bench/results/start.json``. The
servers start in turns, with the same model folder and the same requests:

- ``naive``: ``bench/naive_predictor.py``, which loads before its port opens;
- ``ours``: ``python -m predictor``;
- ``again``: the same, with a cache folder that one earlier start has filled;
- ``compiled`` (with ``--compile``): ``compile=true``, with a cache folder filled in the same way.

Each phase is the time since exec. ``cpu_seconds`` is the CPU time of all processes of the server
until the first picture: unlike the clock, it does not depend on what else runs on the machine.
``--cold=weights`` drops the weights from the page cache before each start, as for a new pod on a
node that has the image. ``--cold=all`` drops the libraries too, as on a new node; it needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from demo.run import NAME, OUTPUT, VOLUME, free_port, publish

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "start.json"
PHASES = ("port", "weights", "ready", "first_picture")
MEASURES = (*PHASES, "picture", "tenth_picture", "cpu_seconds")
# As often as a kubelet could: each probe takes CPU time from the start.
_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 900
# https://docs.kernel.org/admin-guide/sysctl/vm.html#drop-caches
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
# The highest acceptable ratios: of ``measure`` of a contestant in a case.
GOALS = {
    ("ours", "first_picture"): 0.9,
    ("ours", "port_to_picture"): 0.3,
    ("ours", "first_to_tenth"): 1.2,
    ("again", "first_picture"): 0.75,
    ("compiled", "to_uncompiled"): 1.3,
}
REAL_SIZE_GOALS = GOALS | {("ours", "first_picture"): 0.8}

Seconds = dict[str, float]


@dataclass(frozen=True)
class Case:
    """A model and the pictures that are requested of it; ``dtype`` is how both servers load it."""

    folder: Path
    parameters: Mapping[str, int]
    dtype: str = "float32"
    variant: str = ""
    pictures: int = 10


@dataclass
class Server:
    """A starting process; ``seen`` has the time of each line of its log that names a phase."""

    process: subprocess.Popen[str]
    port: int
    log: Path
    started: float
    seen: Seconds = field(default_factory=dict)

    def since_start(self) -> float:
        """Seconds since exec."""
        return time.perf_counter() - self.started

    def follow_log(self) -> None:
        """Note when the weights are loaded, which both servers log."""
        assert self.process.stdout
        with self.log.open("w") as log:
            for line in self.process.stdout:
                log.write(line)
                if "loaded" in line:
                    self.seen.setdefault("weights", self.since_start())

    def wait_for_port(self) -> float:
        """Seconds until the port accepts a connection."""
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self.since_start()
            self._pause()

    def wait_until_ready(self) -> float:
        """Seconds until the readiness route answers 200."""
        url = f"http://127.0.0.1:{self.port}/v2/models/{NAME}/ready"
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(url).close()
                return self.since_start()
            self._pause()

    def picture(self, parameters: Mapping[str, int], seed: int) -> float:
        """Seconds of one request."""
        begun = time.perf_counter()
        instance = {"prompt": "a red circle", "parameters": {**parameters, "seed": seed}}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/models/{NAME}:predict",
            data=json.dumps({"instances": [instance]}).encode(),
            headers={"content-type": "application/json"},
        )
        urllib.request.urlopen(request).read()
        return time.perf_counter() - begun

    def cpu_seconds(self) -> float:
        """CPU time of the process and its children, so far."""
        ticks = sum(map(_ticks, [self.process.pid, *_children(self.process.pid)]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def _pause(self) -> None:
        if self.process.poll() is not None or self.since_start() > _PATIENCE_SECONDS:
            raise RuntimeError(f"the server ended or hangs; see {self.log}")
        time.sleep(_POLL_SECONDS)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["demo", "sd15"], help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", choices=["weights", "all"], help="what leaves the page cache")
    parser.add_argument("--compile", action="store_true", help="measure compile=true too")
    parser.add_argument("--pictures", type=int, default=10, help="the pictures of each start")
    options = parser.parse_args()
    for name in options.models:
        case = replace(CASES[name](), pictures=options.pictures)
        measured = measure(case, options.rounds, options.cold, compiles=options.compile)
        print(name, json.dumps(measured, indent=1), flush=True)
        goals = GOALS if name == "demo" else REAL_SIZE_GOALS
        print(*verdicts(measured["ratios"], goals), sep="\n", flush=True)
        result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        result[f"{name}, {options.cold} cold" if options.cold else name] = measured
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def measure(case: Case, rounds: int, cold: str | None, *, compiles: bool) -> dict[str, Any]:
    """Start all contestants in turns; the medians of each, and the ratios per round."""
    folder = OUTPUT / "start-cache"
    shutil.rmtree(folder, ignore_errors=True)
    cached = [f"--cache_dir={folder}"]
    commands = {
        "naive": partial(naive, case),
        "ours": partial(ours, case, []),
        "again": partial(ours, case, cached),
    }
    if compiles:
        commands["compiled"] = partial(ours, case, [*cached, "--compile=true"])
    filled = {
        name: start(commands[name], case, cold)
        for name in ("again", "compiled")
        if name in commands
    }
    print("with an empty cache", filled, flush=True)
    runs: dict[str, list[Seconds]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            runs[name].append(start(command, case, cold))
            print(name, runs[name][-1], flush=True)
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "rounds": rounds,
        "gigabytes": round(sum(file.stat().st_size for file in _weights(case)) / 1e9, 2),
        "empty_cache": {name: medians([run]) for name, run in filled.items()},
        "contestants": {name: medians(run) for name, run in runs.items()},
        "ratios": {name: ratios(runs, name) for name in commands if name != "naive"},
    }


def medians(runs: Sequence[Seconds]) -> Seconds:
    """The median of each measure, in seconds."""
    return {name: round(median(run[name] for run in runs), 3) for name in MEASURES}


def ratios(runs: Mapping[str, Sequence[Seconds]], name: str) -> Seconds:
    """The median over the rounds of the ratios of a contestant to the naive predictor.

    ``port_to_picture`` compares the opening of its port with the naive predictor's first picture,
    ``to_uncompiled`` its first picture with that of ``ours``, and ``first_to_tenth`` its own
    pictures.
    """
    rounds = list(zip(runs[name], runs["naive"], runs["ours"], strict=True))
    found = {
        measure: median(mine[measure] / its[measure] for mine, its, _ in rounds)
        for measure in ("port", "ready", "first_picture", "cpu_seconds")
    }
    found["port_to_picture"] = median(
        mine["port"] / its["first_picture"] for mine, its, _ in rounds
    )
    found["to_uncompiled"] = median(
        mine["first_picture"] / uncompiled["first_picture"] for mine, _, uncompiled in rounds
    )
    found["first_to_tenth"] = median(one["picture"] / one["tenth_picture"] for one in runs[name])
    return {measure: round(ratio, 3) for measure, ratio in found.items()}


def verdicts(found: Mapping[str, Seconds], goals: Mapping[tuple[str, str], float]) -> Iterator[str]:
    """One line for each goal of the contestants that took part."""
    for (name, measure), most in goals.items():
        if name in found:
            ratio = found[name][measure]
            met = "met" if ratio <= most else "missed"
            yield f"{name}, {measure}: {ratio:g}, at most {most:g}: {met}"


def start(command: Callable[[int], list[str]], case: Case, cold: str | None) -> Seconds:
    """Start one server, request pictures, and stop it; seconds by phase."""
    if cold == "weights":
        drop_from_page_cache(_weights(case))
    elif cold == "all":
        os.sync()
        _DROP_CACHES.write_text("1\n")
    with _running(command) as server:
        phases = {"port": server.wait_for_port(), "ready": server.wait_until_ready()}
        first = server.picture(case.parameters, seed=0)
        phases |= {"first_picture": server.since_start(), "cpu_seconds": server.cpu_seconds()}
        pictures = [
            first,
            *(server.picture(case.parameters, seed) for seed in range(1, case.pictures)),
        ]
        # The median of the last ones has less noise than the last one alone.
        phases |= {"picture": first, "tenth_picture": median(pictures[1:][-3:])}
        return phases | server.seen


@contextlib.contextmanager
def _running(command: Callable[[int], list[str]]) -> Iterator[Server]:
    port = free_port()
    environment = os.environ | {"MALLOC_ARENA_MAX": "2", "PYTHONUNBUFFERED": "1"}  # as in the image
    started = time.perf_counter()
    process = subprocess.Popen(
        command(port),
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    server = Server(process, port, OUTPUT / "bench-start.log", started)
    reader = threading.Thread(target=server.follow_log)
    reader.start()
    try:
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()


def ours(case: Case, flags: Sequence[str], port: int) -> list[str]:
    """The command of this project's predictor, with further flags."""
    return [
        *(sys.executable, "-m", "predictor", f"--model_name={NAME}", f"--http_port={port}"),
        *("--host=127.0.0.1", f"--model_dir={case.folder}", f"--dtype={case.dtype}"),
        *flags,
    ]


def naive(case: Case, port: int) -> list[str]:
    """The command of the naive predictor."""
    arguments = [str(case.folder), case.dtype, case.variant]
    flags = [f"--model_name={NAME}", f"--http_port={port}"]
    return [sys.executable, "-m", "bench.naive_predictor", *arguments, *flags]


def demo() -> Case:
    """The demo model at its own size."""
    return Case(publish(NAME, VOLUME), {"num_inference_steps": 4}, variant="fp16")


def stable_diffusion_1_5() -> Case:
    """Random weights in the shapes of Stable Diffusion 1.5: 2 GB in half precision."""
    from bench.random_models import stable_diffusion_1_5

    return _random("sd15", stable_diffusion_1_5, "float32")


def stable_diffusion_xl() -> Case:
    """Random weights in the shapes of SDXL: 7 GB in half precision, which the servers keep."""
    from bench.random_models import stable_diffusion_xl

    return _random("sdxl", stable_diffusion_xl, "bfloat16")


CASES = {"demo": demo, "sd15": stable_diffusion_1_5, "sdxl": stable_diffusion_xl}
# A picture of this size takes a CPU seconds instead of minutes.
_SMALL = {"num_inference_steps": 2, "width": 128, "height": 128}


def _random(name: str, build: Any, dtype: str) -> Case:
    """Publish a random model, in a process of its own whose memory is free afterwards."""
    folder = OUTPUT / "random" / name
    if not (VOLUME / name).exists():
        VOLUME.mkdir(parents=True, exist_ok=True)
        halves = "float16" if dtype == "float32" else dtype
        arguments = f"{build.__name__!r}, {halves!r}, {str(folder)!r}"
        code = f"from bench.start import save; save({arguments})"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        flags = [f"--source={folder.as_uri()}", f"--name={name}", f"--target={VOLUME}"]
        subprocess.run([sys.executable, "-m", "downloader", *flags], cwd=ROOT, check=True)
        shutil.rmtree(folder)
    return Case(VOLUME / name, _SMALL, dtype)


def save(build: str, dtype: str, folder: str) -> None:
    """Save the pipeline of a function in ``bench.random_models`` in this number type."""
    import torch

    from bench import random_models

    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    pipeline: DiffusionPipeline = getattr(random_models, build)()
    pipeline.save_pretrained(folder)


def _weights(case: Case) -> list[Path]:
    return sorted(case.folder.resolve().rglob("*.safetensors"))


def drop_from_page_cache(paths: Iterable[Path]) -> None:
    """Write the files to the disk, and drop them from the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def _ticks(pid: int) -> int:
    """User and system time of a process and of its children that have ended, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))


if __name__ == "__main__":
    main()
