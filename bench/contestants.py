"""The servers under comparison.

Each contestant is this project's predictor over HTTP with another engine inside, so only the
batching differs:

- ``bare``: the pipeline's own call, one picture after another;
- ``muse``: whole batches as in Muse, up to 4 matching requests within a window of 10 seconds;
- ``tuned``: whole batches with the best size and window of a grid search;
- ``ours``: the step loop.

``python -m bench.contestants ENGINE SIZE WINDOW MODEL_DIR PORT`` runs one of them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo.run import NAME, free_port

if TYPE_CHECKING:
    from predictor.loading.loader import OpenEngine

ROOT = Path(__file__).resolve().parent.parent
# Long enough for every load: rejected requests would improve the percentiles.
MAX_QUEUE_LENGTH = 1_000
_PATIENCE_SECONDS = 300


@dataclass(frozen=True)
class Contestant:
    """An engine; ``size`` and ``window`` (seconds) apply to whole-request batches."""

    name: str
    engine: str
    size: int = 1
    window: float = 0.0


BARE = Contestant("bare", "whole")
MUSE = Contestant("muse", "window", size=4, window=10.0)
OURS = Contestant("ours", "steps")


@dataclass(frozen=True)
class Running:
    """A contestant's process; ``address`` is the URL of its predict route."""

    contestant: Contestant
    process: subprocess.Popen[bytes]
    address: str

    def resident_bytes(self) -> int:
        """The process's resident set size."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024


@contextlib.contextmanager
def running(contestant: Contestant, model_dir: Path, log_dir: Path) -> Iterator[Running]:
    """Start the process, wait until it is ready, and kill it on exit."""
    port = free_port()
    arguments = [contestant.engine, contestant.size, contestant.window, model_dir, port]
    command = [sys.executable, "-m", "bench.contestants", *map(str, arguments)]
    log = log_dir / f"bench-{contestant.name}.log"
    with log.open("wb") as stream:
        environment = os.environ | {"MALLOC_ARENA_MAX": "2"}  # as in the image
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream, env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, f"{url}/v2/models/{NAME}/ready", log)
        yield Running(contestant, process, f"{url}/v1/models/{NAME}:predict")
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the contestant exited with {process.returncode}; see {log}")
        try:
            urllib.request.urlopen(address).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(f"the contestant is not ready; see {log}")


def main() -> None:
    """Run the predictor with the contestant's engine."""
    engine, size, window, model_dir, port = sys.argv[1:]

    from predictor.__main__ import main as serve

    flags = [
        *(f"--model_name={NAME}", f"--http_port={port}", f"--model_dir={model_dir}"),
        *("--host=127.0.0.1", f"--max_queue_length={MAX_QUEUE_LENGTH}", "--max_pixels=4194304"),
        "--max_queue_seconds=3600",
    ]
    sys.exit(serve(flags, None if engine == "steps" else _opener(int(size), float(window))))


def _opener(size: int, window: float) -> OpenEngine:
    """A function that opens an engine for whole batches of ``size`` and ``window`` (seconds)."""
    from predictor.engine.whole_batch import WholeBatchEngine, batch_key

    class WindowEngine(WholeBatchEngine):
        """Waits for matching requests, counted from the first arrival, before it runs a batch."""

        def _next_batch(self) -> Any:
            # Iterate over a copy: the deque may grow meanwhile.
            waiting = list(self._inbox._tickets)
            kinds = [batch_key(ticket.request) for ticket in waiting]
            is_full = bool(kinds) and kinds.count(kinds[0]) >= size
            if waiting and not is_full and time.perf_counter() < waiting[0].arrived + window:
                time.sleep(0.002)
                return []
            return super()._next_batch()

    return lambda pipeline, *_: WindowEngine(pipeline, size, MAX_QUEUE_LENGTH)


if __name__ == "__main__":
    main()
