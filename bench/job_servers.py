"""The servers that ``bench.jobs`` compares, each with an empty storage."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.job_users import NAIVE, OURS, Api
from demo.run import free_port

ROOT = Path(__file__).resolve().parent.parent
_PICTURE_SECONDS = 0.2


@dataclass(frozen=True)
class Server:
    """A contestant; ``redis`` says where its jobs are."""

    name: str
    api: Api
    redis: bool


SERVERS = (
    Server("ours, SQLite", OURS, redis=False),
    Server("ours, Redis", OURS, redis=True),
    Server("naive, memory", NAIVE, redis=False),
    Server("naive, Redis", NAIVE, redis=True),
)


@contextlib.contextmanager
def running(server: Server, predictor: int) -> Iterator[int]:
    """Start the server, and its Redis, with an empty storage; yields the port."""
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="bench-jobs-") as folder,
        contextlib.ExitStack() as stack,
    ):
        redis = stack.enter_context(_redis(Path(folder))) if server.redis else None
        if server.api is NAIVE:
            command = ["-m", "bench.naive_jobs", str(port), *([redis] if redis else [])]
        else:
            where = f"--redis_url={redis}" if redis else f"--sqlite_path={folder}/jobs.sqlite3"
            url = f"http://127.0.0.1:{predictor}"
            command = ["-m", "jobs", f"--port={port}", f"--predictor_url={url}", where]
            command.append("--max_queue_length=100000")
        stack.enter_context(_process([sys.executable, *command], port))
        yield port


@contextlib.contextmanager
def stand_in(port: int) -> Iterator[int]:
    """A predictor that computes nothing; yields its port."""
    command = [sys.executable, "-m", "bench.instant_predictor", str(port), str(_PICTURE_SECONDS)]
    with _process(command, port):
        yield port


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """A Redis as the chart configures its Valkey."""
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
    with _process(command, port):
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def _process(command: Sequence[str], port: int) -> Iterator[None]:
    """Start a process, wait until its port accepts connections, and kill it on exit."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not _is_open(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[2]} does not start")
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


def _is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
