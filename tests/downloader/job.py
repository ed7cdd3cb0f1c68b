"""The downloader as the Job runs it: a separate process with the container's environment."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = "owner/stable-diffusion"


@dataclass(frozen=True)
class Job:
    """Downloads ``REPOSITORY`` as ``sd`` unless flags or variables say otherwise."""

    target: Path
    environment: dict[str, str]
    _started: list[subprocess.Popen[str]] = field(default_factory=list, repr=False)

    @property
    def termination_log(self) -> Path:
        """The file that the kubelet would read."""
        return Path(self.environment["DOWNLOADER_TERMINATION_LOG"])

    def run(self, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return self.verb("fetch", *flags, **variables)

    def verb(self, verb: str, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run another verb to the end."""
        return subprocess.run(
            [sys.executable, "-m", "downloader", verb, *flags],
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, *flags: str, **variables: str) -> subprocess.Popen[str]:
        """Start a run; ``close`` kills it if the test does not."""
        process = subprocess.Popen(
            [sys.executable, "-m", "downloader", "fetch", *flags],
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        """Kill the runs that a failed test left, or they would outlive it."""
        for process in self._started:
            with process:
                process.kill()
