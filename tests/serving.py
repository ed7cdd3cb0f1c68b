"""A real predictor process for tests."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from PIL import Image

from demo.run import free_port

ROOT = Path(__file__).resolve().parent.parent
MODEL_NAME = "stable-diffusion"
Found = TypeVar("Found")
PREDICT = f"/v1/models/{MODEL_NAME}:predict"
# Takes a moment, and minutes.
SHORT: dict[str, Any] = {"prompt": "a red star", "parameters": {"num_inference_steps": 1}}
LONG: dict[str, Any] = {
    "prompt": "a red star",
    "parameters": {
        "num_inference_steps": 150,
        "width": 128,
        "height": 128,
        "num_images_per_prompt": 12,
    },
}


def predictor_command(port: int, module: str = "predictor", **settings: Any) -> list[str]:
    """The command that serves a model on 127.0.0.1."""
    flags = {"http_port": port, "model_name": MODEL_NAME, "host": "127.0.0.1", **settings}
    return [sys.executable, "-m", module, *(f"--{name}={value}" for name, value in flags.items())]


@dataclass
class Server:
    """One predictor process."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    grpc_port: int = 0

    @classmethod
    @contextlib.contextmanager
    def started(
        cls,
        model: Path,
        log: Path,
        *,
        python_path: Path | None = None,
        module: str = "predictor",
        prefix: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> Iterator[Server]:
        """Start the predictor with ``model`` on a free port, and kill it on exit.

        Modules in ``python_path`` take precedence over installed ones. ``variables`` are added to
        the environment. The command ``prefix`` starts the process. With ``enable_grpc``, the port
        of gRPC is free too.
        """
        port = free_port()
        flags = {"model_dir": model, "drain_seconds": 0, **settings}
        if "enable_grpc" in flags:
            flags.setdefault("grpc_port", free_port())
        command = [*prefix, *predictor_command(port, module, **flags)]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PREDICTOR_")
        }
        environment |= variables or {}
        if python_path:
            environment["PYTHONPATH"] = str(python_path)
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, env=environment
            )
            try:
                url = f"http://127.0.0.1:{port}"
                yield cls(process, url, log, flags.get("grpc_port", 0))
            finally:
                process.kill()
                process.wait()

    def wait_for(self, path: str, status: int = 200, seconds: float = 120) -> None:
        """Poll ``path`` until it responds with ``status``."""

        def answers() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(self.url + path, timeout=5).status_code == status
            return False

        self._poll(answers, f"{path} did not respond with {status}", seconds)

    def wait_for_log(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """Poll the log until it matches ``pattern``."""
        return self._poll(
            lambda: re.search(pattern, self.log.read_text()), f"no {pattern!r} in the log", seconds
        )

    def wait_until_ready(self) -> None:
        """Wait until the model is loaded and warm."""
        self.wait_for(f"/v2/models/{MODEL_NAME}/ready")

    def children(self) -> list[int]:
        """The processes that the server has started, by their identifiers."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(child) for task in tasks for child in task.read_text().split()]

    def _poll(self, look: Callable[[], Found | None], missing: str, seconds: float) -> Found:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := look():
                return found
            time.sleep(0.05)
        raise AssertionError(f"{missing}: {self.log.read_text()}")

    def terminate(self) -> None:
        """Send SIGTERM, as the kubelet does."""
        self.process.send_signal(signal.SIGTERM)


def picture_of(response: httpx.Response) -> Image.Image:
    """The decoded picture of a successful response."""
    assert response.status_code == 200, response.text
    picture = Image.open(io.BytesIO(response.content))
    picture.load()
    return picture
