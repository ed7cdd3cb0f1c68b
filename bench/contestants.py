"""The servers that are compared: our own, with one engine or another inside.

All of them are this project's predictor over HTTP, so that what differs is the scheduling alone:

- ``bare``: the pipeline's own call, one picture after another;
- ``muse``: whole batches as Muse makes them, up to 4 alike requests, waited for up to 10 seconds;
- ``tuned``: whole batches at the best size and window that a search over both finds;
- ``ours``: the step loop.

``python -m bench.contestants ENGINE SIZE WINDOW MODEL_DIR PORT`` is the process of one of them.
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
from typing import Any

from demo.run import NAME, free_port

ROOT = Path(__file__).resolve().parent.parent
# All may queue whatever the loads bring: a refusal would flatter the percentiles.
MAX_QUEUE_LENGTH = 1_000
_PATIENCE_SECONDS = 300


@dataclass(frozen=True)
class Contestant:
    """An engine; ``size`` and ``window`` (seconds) are of those that batch whole requests."""

    name: str
    engine: str
    size: int = 1
    window: float = 0.0


BARE = Contestant("bare", "whole")
MUSE = Contestant("muse", "window", size=4, window=10.0)
OURS = Contestant("ours", "steps")


@dataclass(frozen=True)
class Running:
    """A contestant's process; the address is of its predict route."""

    contestant: Contestant
    process: subprocess.Popen[bytes]
    address: str

    def resident_bytes(self) -> int:
        """The memory that the process holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024


@contextlib.contextmanager
def running(contestant: Contestant, model_dir: Path, log_dir: Path) -> Iterator[Running]:
    """Start the process and wait until it has warmed up; end it afterwards."""
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
            raise RuntimeError(f"the contestant ended with {process.returncode}; see {log}")
        try:
            urllib.request.urlopen(address).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(f"the contestant is not ready; see {log}")


def main() -> None:
    """Serve as the predictor does, with the engine of a contestant."""
    engine, size, window, model_dir, port = sys.argv[1:]

    import predictor.loading.engine as engine_choice

    if engine != "steps":
        engine_choice.open_engine = lambda pipeline, *_: _whole_batch_engine(
            pipeline, int(size), float(window)
        )
    sys.argv[1:] = [
        *(f"--model_name={NAME}", f"--http_port={port}", f"--model_dir={model_dir}"),
        *("--host=127.0.0.1", f"--max_queue_length={MAX_QUEUE_LENGTH}", "--max_pixels=4194304"),
    ]
    from predictor.__main__ import main as serve

    sys.exit(serve())


def _whole_batch_engine(pipeline: Any, size: int, window: float) -> Any:
    from predictor.engine.whole_batch import WholeBatchEngine, batch_key

    class WindowEngine(WholeBatchEngine):
        """Waits for alike requests, from the arrival of the first, before it makes any."""

        def _next_batch(self) -> Any:
            # A deque that grows meanwhile may not be walked through: a copy can.
            waiting = list(self._inbox._tickets)
            kinds = [batch_key(ticket.request) for ticket in waiting]
            is_full = bool(kinds) and kinds.count(kinds[0]) >= size
            if waiting and not is_full and time.perf_counter() < waiting[0].arrived + window:
                time.sleep(0.002)
                return []
            return super()._next_batch()

    return WindowEngine(pipeline, size, MAX_QUEUE_LENGTH)


if __name__ == "__main__":
    main()
