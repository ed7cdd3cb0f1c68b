"""Times the forward passes of the step loop without waiting for the device."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

Timed = TypeVar("Timed")


class StepTimer(Generic[Timed]):
    """Passes what was timed and its seconds to ``note``, on the thread that uses the timer.

    On a GPU, calls return before their kernels run, so CUDA events take the time. Their results are
    noted when the next pass begins, or later.
    """

    def __init__(self, note: Callable[[Timed, float], None]) -> None:
        self._note = note
        self._pending: deque[tuple[Timed, torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def time(self, timed: Timed, device: torch.device) -> Iterator[None]:
        """Time the body, unless it raises."""
        if device.type != "cuda":
            started = time.perf_counter()
            yield
            self._note(timed, time.perf_counter() - started)
            return
        self._collect()
        begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        begin.record(torch.cuda.current_stream(device))
        yield
        end.record(torch.cuda.current_stream(device))
        self._pending.append((timed, begin, end))

    def _collect(self) -> None:
        while self._pending and self._pending[0][2].query():  # type: ignore[no-untyped-call]
            timed, begin, end = self._pending.popleft()
            self._note(timed, begin.elapsed_time(end) / 1000)
