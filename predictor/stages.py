"""The stages of a request, and how long each takes."""

from __future__ import annotations

import time
from typing import Literal, NamedTuple, Self

# In the order of a request. ``metrics.STAGE_SECONDS`` says what each one covers.
Stage = Literal["parse", "queue", "prepare", "text", "denoise", "decode", "review", "encode"]


class StageTime(NamedTuple):
    """One stage; ``started`` is on the clock of ``time.perf_counter``, ``seconds`` its duration."""

    stage: Stage
    started: float
    seconds: float

    @classmethod
    def since(cls, stage: Stage, started: float) -> Self:
        """A stage that began at ``started`` and ends now."""
        return cls(stage, started, time.perf_counter() - started)


class StageClock:
    """The consecutive stages of one picture: each ends when the next one begins."""

    def __init__(self, stage: Stage, started: float) -> None:
        self._stage = stage
        self._started = started
        self._ended: list[StageTime] = []

    def enter(self, stage: Stage) -> None:
        """End the current stage and begin this one; the current stage simply continues."""
        if stage != self._stage:
            self._ended.append(StageTime.since(self._stage, self._started))
            self._stage, self._started = stage, time.perf_counter()

    def stages(self) -> tuple[StageTime, ...]:
        """All stages so far, the current one included."""
        return (*self._ended, StageTime.since(self._stage, self._started))
