"""A real Redis for tests of shared rate limits and of jobs."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.run import free_port

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="redis-server is not installed"
)


class RedisServer:
    """A ``redis-server`` on one port, which can be killed, frozen and started again."""

    def __init__(self, folder: Path | None = None) -> None:
        """With a ``folder`` each change is on the disk before its answer, and survives a kill."""
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def command(self) -> list[str]:
        """The command that starts it."""
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]
        if not self._folder:
            return [*command, "--appendonly", "no"]
        command += ["--dir", str(self._folder), "--appendonly", "yes"]
        return [*command, "--appendfsync", "always"]

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        self._process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1),
            ):
                return
            time.sleep(0.05)
        raise AssertionError("redis-server does not accept connections")

    def kill(self) -> None:
        """End it like a lost node."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Keep its connections open, but let it answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it answer again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A running Redis without data."""
    server = RedisServer()
    server.start()
    yield server
    server.kill()
