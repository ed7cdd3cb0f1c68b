"""Many calls at once on threads that do not hold up the end of the process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from downloader.workers import Stop

_T = TypeVar("_T")
# A signal's handler runs in the main thread between two waits.
_POLL_SECONDS = 0.1


def run_all(calls: Sequence[Callable[[], _T]], max_workers: int, stop: Stop) -> list[_T]:
    """The results of ``calls``, in their order; the first error trips ``stop`` and is raised.

    The threads are daemons: one that waits for a silent server does not delay an exit.
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
        # A signal came here and not in a worker: they must end too.
        stop.trip(error)
        raise
