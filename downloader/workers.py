"""Worker threads, and the single reason for which all of them stop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

_T = TypeVar("_T")
# A signal handler runs in the main thread between two joins.
_POLL_SECONDS = 0.1


class Stop:
    """Set once, by the first thread that finds that the run cannot continue."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._reason: BaseException | None = None

    def trip(self, reason: BaseException) -> None:
        """End every thread that checks or waits with ``reason``; only the first reason counts."""
        with self._lock:
            if self._reason is None:
                self._reason = reason
        self._event.set()

    @property
    def is_tripped(self) -> bool:
        """Whether there is a reason to stop."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise the reason if there is one."""
        if self._event.is_set() and self._reason is not None:
            raise self._reason

    def wait(self, seconds: float) -> None:
        """Sleep, or raise the reason as soon as there is one."""
        self._event.wait(seconds)
        self.check()


def run_all(calls: Sequence[Callable[[], _T]], max_workers: int, stop: Stop) -> list[_T]:
    """Run ``calls`` on up to ``max_workers`` threads and return their results in order.

    The first error trips ``stop`` and is raised. The threads are daemons, so a thread that waits
    for a silent server does not delay the exit of the process.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(calls)):
        waiting.put(index)
    results: dict[int, _T] = {}

    def work() -> None:
        try:
            while not stop.is_tripped:
                index = waiting.get_nowait()
                results[index] = calls[index]()
        except queue.Empty:
            return
        except BaseException as error:
            stop.trip(error)

    threads = [
        threading.Thread(target=work, daemon=True) for _ in range(min(max_workers, len(calls)))
    ]
    for thread in threads:
        thread.start()
    _join(threads, stop)
    return [results[index] for index in range(len(calls))]


def _join(threads: Sequence[threading.Thread], stop: Stop) -> None:
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(_POLL_SECONDS)
                stop.check()
        stop.check()
    except BaseException as error:
        # A signal is raised here and not in the workers, which must end too.
        stop.trip(error)
        raise
