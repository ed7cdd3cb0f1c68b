"""The downloader as the Job runs it: a process of its own with the container's environment."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = "owner/stable-diffusion"


@dataclass(frozen=True)
class Job:
    """Downloads ``REPOSITORY`` as ``sd`` unless flags or variables say otherwise."""

    target: Path
    environment: dict[str, str]

    def run(self, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            self._command(flags),
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, *flags: str) -> subprocess.Popen[bytes]:
        """Start, to be killed."""
        return subprocess.Popen(self._command(flags), env=self.environment)

    def _command(self, flags: tuple[str, ...]) -> list[str]:
        return [
            *(sys.executable, "-m", "downloader", "--target", str(self.target)),
            *("--source", f"hf://{REPOSITORY}", "--name", "sd", *flags),
        ]
