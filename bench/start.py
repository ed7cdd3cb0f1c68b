"""Measure a start by phase, from exec to the first picture, against a naive KServe predictor.

``python -m bench.start`` prints the figures and writes them to ``bench/results/start.json``. The
servers start in turns, with the same model folder and the same requests:

- ``ours``: ``python -m predictor``;
- ``again``: the same, with the cache folder that an earlier start has filled (``--cache``);
- ``naive``: ``bench/naive_predictor.py``, which loads before its port opens.

Each phase is the time since exec. ``cpu_seconds`` is the CPU time of all processes of the server
until the first picture: unlike the clock, it does not depend on what else runs on the machine.
``--cold`` drops the weights (not the libraries) from the page cache before each start.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

Seconds = dict[str, float]


@dataclass(frozen=True)
class Case:
    """A model and the pictures that are requested of it; ``dtype`` is how both servers load it."""

    folder: Path
    parameters: Mapping[str, int]
    dtype: str = "float32"
    variant: str = ""
    flags: Sequence[str] = ()
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
    parser.add_argument("--cold", action="store_true", help="drop the weights from the page cache")
    parser.add_argument("--cache", metavar="FLAG", help="the flag that sets the cache folder")
    parser.add_argument("--pictures", type=int, default=10, help="the pictures of each start")
    parser.add_argument("--flags", nargs="*", default=[], help="further flags of our server")
    options = parser.parse_args()
    for name in options.models:
        case = replace(CASES[name](), flags=options.flags, pictures=options.pictures)
        measured = measure(case, options.rounds, options.cache, is_cold=options.cold)
        print(name, json.dumps(measured, indent=1), flush=True)
        result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        result[f"{name}, cold" if options.cold else name] = measured
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def measure(case: Case, rounds: int, cache: str | None, *, is_cold: bool) -> dict[str, Any]:
    """Start all contestants in turns; the medians of each, and the ratios per round."""
    commands = {"ours": partial(ours, case), "naive": partial(naive, case)}
    if cache:
        folder = OUTPUT / "start-cache"
        commands["again"] = lambda port: [*ours(case, port), f"--{cache}={folder}"]
        start(commands["again"], case, is_cold=is_cold)
    runs: dict[str, list[Seconds]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            runs[name].append(start(command, case, is_cold=is_cold))
            print(name, runs[name][-1], flush=True)
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "rounds": rounds,
        "gigabytes": round(sum(file.stat().st_size for file in _weights(case)) / 1e9, 2),
        "contestants": {name: medians(run) for name, run in runs.items()},
        "ratios": {name: ratios(runs[name], runs["naive"]) for name in commands if name != "naive"},
    }


def medians(runs: Sequence[Seconds]) -> Seconds:
    """The median of each measure, in seconds."""
    return {name: round(median(run[name] for run in runs), 3) for name in MEASURES}


def ratios(ours: Sequence[Seconds], naive: Sequence[Seconds]) -> Seconds:
    """The median over the rounds of ours to naive.

    ``port_to_picture`` is the time until our port opens to that until the naive predictor's first
    picture. ``first_to_tenth`` compares our own pictures.
    """
    pairs = list(zip(ours, naive, strict=True))
    found = {
        name: median(mine[name] / its[name] for mine, its in pairs)
        for name in ("port", "ready", "first_picture", "cpu_seconds")
    }
    found["first_to_tenth"] = median(one["picture"] / one["tenth_picture"] for one in ours)
    return {name: round(ratio, 3) for name, ratio in found.items()}


def start(command: Any, case: Case, *, is_cold: bool) -> Seconds:
    """Start one server, request pictures, and stop it; seconds by phase."""
    if is_cold:
        drop_from_page_cache(_weights(case))
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
def _running(command: Any) -> Iterator[Server]:
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


def ours(case: Case, port: int) -> list[str]:
    """The command of this project's predictor."""
    return [
        *(sys.executable, "-m", "predictor", f"--model_name={NAME}", f"--http_port={port}"),
        *("--host=127.0.0.1", f"--model_dir={case.folder}", f"--dtype={case.dtype}"),
        *case.flags,
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
    if not (OUTPUT / "volume" / name).exists():
        halves = "float16" if dtype == "float32" else dtype
        arguments = f"{build.__name__!r}, {halves!r}, {str(folder)!r}"
        code = f"from bench.start import save; save({arguments})"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        flags = [f"--source={folder.as_uri()}", f"--name={name}", f"--target={OUTPUT / 'volume'}"]
        subprocess.run([sys.executable, "-m", "downloader", *flags], cwd=ROOT, check=True)
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
