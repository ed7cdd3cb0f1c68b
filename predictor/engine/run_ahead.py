"""Lets the engine's thread launch one turn while a GPU still runs the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch


class _Launched(NamedTuple):
    """Work that the device runs; ``end`` has passed once the device has finished it."""

    end: torch.cuda.Event
    on_end: Callable[[], None]


class RunAhead:
    """The turns that were launched and whose end the engine's thread has not seen.

    Without a bound, the thread would launch a whole picture in a moment: requests would join it
    late, and the reported progress and measured times would be those of the launches.
    """

    def __init__(self) -> None:
        self._launched: deque[_Launched] = deque()

    def launched(self, device: torch.device, on_end: Callable[[], None]) -> None:
        """Call ``on_end`` once the device has done all work so far; on a CPU that is now."""
        if device.type != "cuda":
            on_end()
            return
        # ``wait`` sleeps; without ``blocking``, it would poll and take the GIL's time.
        end = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        end.record(torch.cuda.current_stream(device))
        self._launched.append(_Launched(end, on_end))

    def wait(self, *, turns_left: int) -> None:
        """Wait until at most that many turns have not ended, and report those that have."""
        while len(self._launched) > turns_left:
            first = self._launched.popleft()
            first.end.synchronize()
            first.on_end()

    def forget(self) -> None:
        """Report no turn that was launched before."""
        self._launched.clear()
