"""One model of a server: whether it is in memory, who uses it, who waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from predictor.loading.loader import Loaded

# As the model repository extension of the Open Inference Protocol names them.
State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]

_FIRST_RETRY_SECONDS = 5.0
_MOST_RETRY_SECONDS = 60.0


class Failure(NamedTuple):
    """Why a model did not load: ``cause`` for the operator, ``told`` for a caller.

    Texts, not the error: its traceback would keep what was loaded so far.
    """

    folder: Path
    cause: str
    told: str
    pause: float
    retry_at: float

    @classmethod
    def after(cls, last: Failure | None, folder: Path, cause: str, told: str) -> Failure:
        """The next try comes after twice the pause before the last one, up to a minute."""
        again = last is not None and last.folder == folder
        pause = min(2 * last.pause, _MOST_RETRY_SECONDS) if last and again else _FIRST_RETRY_SECONDS
        return cls(folder, cause, told, pause, time.monotonic() + pause)

    @property
    def seconds_left(self) -> float:
        """Until the next try."""
        return max(0.0, self.retry_at - time.monotonic())


@dataclass(eq=False)
class Resident:
    """``users`` are the requests that work with what is loaded, ``waiters`` those that need it.

    ``path`` is where the model is published, a link or a folder; ``folder`` what it led to when
    it was last loaded. ``memory_bytes`` is 0 while it is not in memory. ``is_leaving``: newcomers
    wait for the next load, so that this one comes to an end.
    """

    name: str
    path: Path
    loaded: Loaded | None = None
    folder: Path | None = None
    memory_bytes: int = 0
    users: int = 0
    waiters: int = 0
    is_leaving: bool = False
    last_used: float = 0.0
    loading: asyncio.Task[None] | None = None
    failure: Failure | None = None

    @property
    def is_open(self) -> bool:
        """Whether a request can begin."""
        return self.loaded is not None and not self.is_leaving

    @property
    def is_idle(self) -> bool:
        """Whether it can be unloaded without anybody noticing."""
        has_callers = self.users or (self.waiters and not self.is_leaving)
        return self.loaded is not None and not has_callers

    @property
    def state(self) -> State:
        """What the index says."""
        if self.loaded is not None:
            return "UNLOADING" if self.is_leaving else "READY"
        return "LOADING" if self.loading is not None else "UNAVAILABLE"

    @property
    def reason(self) -> str:
        """Why it is in no better state."""
        if self.state != "UNAVAILABLE":
            return ""
        return self.failure.told if self.failure else "not loaded; a request loads it"

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keep it from being unloaded."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1
            self.last_used = time.monotonic()
