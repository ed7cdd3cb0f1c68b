"""A process that is killed with SIGKILL and starts again at once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.serving import ROOT

_SETTINGS = ("JOBS_", "PREDICTOR_")


class Killable:
    """The process for the time of a context; ``log`` has the output of all its starts."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command = list(command)
        self.log = log
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._end()

    def restart(self) -> None:
        """Kill the process, which must run, and start it again."""
        assert self._process is not None
        assert self._process.poll() is None, f"it ended on its own: {self.log.read_text()}"
        self._end()
        self._start()

    def revive(self) -> None:
        """Start the process again if it has ended."""
        assert self._process is not None
        if self._process.poll() is not None:
            self._start()

    def _start(self) -> None:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)
        }
        with self.log.open("ab") as stream:
            self._process = subprocess.Popen(
                self.command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, env=environment
            )
        self.starts += 1

    def _end(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
