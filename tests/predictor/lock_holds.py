"""Measures how long a thread of this process keeps the others from running Python code."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self


class LockHolds:
    """``longest`` is the longest wait of a thread for the GIL, in seconds of this process' CPU.

    CPU time does not pass while the machine runs other processes, so load does not count.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._measure)

    def __enter__(self) -> Self:
        """Start to measure."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self._is_over.set()
        self._thread.join()

    def _measure(self) -> None:
        last = time.process_time()
        while not self._is_over.is_set():
            time.sleep(0.001)
            now = time.process_time()
            self.longest = max(self.longest, now - last)
            last = now
