"""One model of a server: its state, and how many requests use it or wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from predictor.residency.load_phase import LoadPhase

if TYPE_CHECKING:
    from predictor.loading.loader import Loaded

# As the model repository extension of the Open Inference Protocol names them.
State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]

_FIRST_RETRY_SECONDS = 5.0
_MOST_RETRY_SECONDS = 60.0


class Failure(NamedTuple):
    """Why a model did not load: ``cause`` for the operator, ``message`` for the caller.

    It does not hold the error, whose traceback keeps a partial load in memory. ``pause`` is in
    seconds, ``retry_at`` on the monotonic clock.
    """

    folder: Path
    cause: str
    message: str
    pause: float
    retry_at: float

    @classmethod
    def after(cls, last: Failure | None, folder: Path, cause: str, message: str) -> Failure:
        """Create a failure whose retry pause is twice that of ``last``, up to a minute."""
        again = last is not None and last.folder == folder
        pause = min(2 * last.pause, _MOST_RETRY_SECONDS) if last and again else _FIRST_RETRY_SECONDS
        return cls(folder, cause, message, pause, time.monotonic() + pause)

    @property
    def seconds_left(self) -> float:
        """Seconds until the next retry."""
        return max(0.0, self.retry_at - time.monotonic())


@dataclass(eq=False)
class Resident:
    """A model: ``users`` counts requests that use it, ``waiters`` those that wait for its load.

    With ``is_preloading``, one of the waiters is the preload.

    ``path`` is where the model is published, a link or a folder; ``folder`` is its target at the
    last load. ``memory_bytes`` is 0 while the model is not in memory. While ``is_leaving``, new
    requests wait for the next load, so that the model becomes idle.
    """

    name: str
    path: Path
    loaded: Loaded | None = None
    folder: Path | None = None
    memory_bytes: int = 0
    users: int = 0
    waiters: int = 0
    is_preloading: bool = False
    is_leaving: bool = False
    last_used: float = 0.0
    loading: asyncio.Task[None] | None = None
    failure: Failure | None = None
    phase: LoadPhase = field(default_factory=LoadPhase)

    @property
    def is_open(self) -> bool:
        """Whether a request can start."""
        return self.loaded is not None and not self.is_leaving

    @property
    def waiting_requests(self) -> int:
        """The number of requests that wait for its load."""
        return self.waiters - self.is_preloading

    @property
    def engine_failure(self) -> str:
        """Why its engine has stopped or hangs; empty if it works or the model is not loaded."""
        return "" if self.loaded is None else self.loaded.engine.state.failure

    @property
    def is_idle(self) -> bool:
        """Whether it is loaded and no request needs it."""
        has_callers = self.users or (self.waiters and not self.is_leaving)
        return self.loaded is not None and not has_callers

    @property
    def state(self) -> State:
        """The state that the repository index reports."""
        if self.loaded is not None:
            return "UNLOADING" if self.is_leaving else "READY"
        return "LOADING" if self.loading is not None else "UNAVAILABLE"

    @property
    def reason(self) -> str:
        """Why the model is unavailable; empty for other states."""
        if self.state != "UNAVAILABLE":
            return ""
        return self.failure.message if self.failure else "not loaded; a request loads it"

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keep the model loaded inside the context."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1
            self.last_used = time.monotonic()
