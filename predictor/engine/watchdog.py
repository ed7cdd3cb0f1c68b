"""Notices work of an engine that takes far longer than it should."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

logger = logging.getLogger(__name__)

# A repeated kind of work may take this many times its longest duration so far, but at least
# ``_LEAST_SECONDS``: a busy node or a GPU that other processes use slows work down as well.
_TIMES_LONGEST = 20
_LEAST_SECONDS = 120.0
_POLL_SECONDS = 5.0
_CLOSE_SECONDS = 1.0
# Above this, the durations are forgotten: callers choose sizes, so the kinds have no other bound.
_MAX_KINDS = 1000


@dataclass
class _Work:
    name: str
    kind: Hashable
    began: float


class Watchdog:
    """Times the work of an engine's threads, and calls ``on_stall`` once if some hangs.

    ``stall_seconds`` bounds each kind of work the first time that it runs, when it may still
    compile code, choose kernels or load an adapter. 0 turns the watchdog off.
    """

    def __init__(self, stall_seconds: float, on_stall: Callable[[], None]) -> None:
        self._stall_seconds = stall_seconds
        self._on_stall = on_stall
        self._working: dict[int, _Work] = {}
        self._longest: dict[Hashable, float] = {}
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Check regularly, on another thread, until ``close``."""
        if self._stall_seconds:
            self._thread.start()

    def close(self) -> None:
        """Stop checking."""
        self._is_closed.set()
        # The thread holds the pipeline until it ends.
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)

    @contextmanager
    def watch(self, name: str, *details: Hashable) -> Iterator[None]:
        """Time the work of the current thread inside the context.

        Work with equal arguments is expected to take about as long each time. ``name`` is a noun
        for the log.
        """
        thread = threading.get_ident()
        self._working[thread] = _Work(name, (name, *details), time.monotonic())
        try:
            yield
        finally:
            self._note(self._working.pop(thread))

    def note_progress(self) -> None:
        """Restart the clock of the current thread's work, which consists of similar parts."""
        work = self._working.get(threading.get_ident())
        if work is not None:
            self._note(work)
            work.began = time.monotonic()

    @property
    def stall(self) -> str:
        """What hangs, as a sentence; empty if nothing does."""
        if not self._stall_seconds:
            return ""
        now = time.monotonic()
        for work in list(self._working.values()):
            bound = self._bound(work)
            if now - work.began > bound:
                return f"a {work.name} takes longer than {bound:.0f} s"
        return ""

    def _bound(self, work: _Work) -> float:
        longest = self._longest.get(work.kind)
        if longest is None:
            return self._stall_seconds
        return max(min(_LEAST_SECONDS, self._stall_seconds), _TIMES_LONGEST * longest)

    def _note(self, work: _Work) -> None:
        """Remember how long it took; a hang must not raise the bound."""
        seconds = time.monotonic() - work.began
        if seconds > self._bound(work):
            return
        if len(self._longest) >= _MAX_KINDS:
            self._longest.clear()
        self._longest[work.kind] = max(seconds, self._longest.get(work.kind, 0.0))

    def _run(self) -> None:
        was_stalled = False
        while not self._is_closed.wait(min(_POLL_SECONDS, self._stall_seconds / 4)):
            stall = self.stall
            if stall and not was_stalled:
                logger.error("the engine hangs: %s", stall)
                self._on_stall()
            elif was_stalled and not stall:
                logger.warning("the engine no longer hangs")
            was_stalled = bool(stall)
