"""A real process of the jobs program."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from demo.run import free_port
from tests.serving import ROOT, Server

PROMPT: dict[str, Any] = {"prompt": "a red star"}


def jobs_command(port: int, predictor_url: str, **settings: Any) -> list[str]:
    """The command that serves jobs; another process runs a lost job after two seconds."""
    flags = {"port": port, "predictor_url": predictor_url, "lease_seconds": 2, **settings}
    return [sys.executable, "-m", "jobs", *(f"--{name}={value}" for name, value in flags.items())]


class JobsServer(Server):
    """The process, with an HTTP client."""

    @classmethod
    @contextlib.contextmanager
    def running(cls, log: Path, predictor_url: str, **settings: Any) -> Iterator[JobsServer]:
        """Start ``python -m jobs`` on a free port, wait until it is ready, and kill it on exit."""
        port = free_port()
        command = jobs_command(port, predictor_url, **settings)
        variables = {name: value for name, value in os.environ.items() if name[:5] != "JOBS_"}
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, env=variables
            )
            try:
                server = cls(process, f"http://127.0.0.1:{port}", log)
                server.wait_for("/v2/health/ready", seconds=60)
                yield server
            finally:
                process.kill()
                process.wait()

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send a request."""
        return httpx.request(method, self.url + path, timeout=60, **arguments)

    def submit(self, body: dict[str, Any] | None = None, **headers: str) -> dict[str, Any]:
        """Submit a job; returns its document."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        response = self.request("POST", "/v1/jobs", json=body or PROMPT, headers=sent)
        assert response.status_code in (200, 202), response.text
        return dict(response.json())

    def job(self, job_id: str) -> dict[str, Any]:
        """The document of a job."""
        response = self.request("GET", f"/v1/jobs/{job_id}")
        assert response.status_code == 200, response.text
        return dict(response.json())

    def wait_for_status(self, job_id: str, *statuses: str, seconds: float = 60) -> dict[str, Any]:
        """Poll a job until it has one of the statuses."""
        deadline = time.monotonic() + seconds
        while (found := self.job(job_id))["status"] not in statuses:
            assert time.monotonic() < deadline, (found, self.log.read_text())
            time.sleep(0.02)
        return found
