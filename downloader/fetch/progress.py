"""Progress of a download: a bar on a terminal, else a line every few seconds."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("downloader")

FIRST_LINE_SECONDS = 2.0
LINE_SECONDS = 5.0
_BAR_SECONDS = 0.2
_RATE_SECONDS = 30.0


class Meter:
    """Counts the bytes done of ``total``; many threads may advance it."""

    def __init__(self, total: int, done: int) -> None:
        self.total = total
        self._done = done
        self._lock = threading.Lock()
        self._samples = deque([(time.monotonic(), done)])

    @property
    def done(self) -> int:
        """Bytes on the disk."""
        return self._done

    def advance(self, count: int) -> None:
        """Add bytes; negative if some turned out to be wrong."""
        with self._lock:
            self._done += count

    def rate(self) -> float:
        """Bytes per second over the last 30 s; for one caller only."""
        now = time.monotonic()
        self._samples.append((now, self._done))
        while len(self._samples) > 2 and now - self._samples[0][0] > _RATE_SECONDS:
            self._samples.popleft()
        then, before = self._samples[0]
        return max(0.0, (self._done - before) / max(now - then, 1e-3))


@contextmanager
def shown(meter: Meter, name: str, *, as_bar: bool) -> Iterator[None]:
    """Show the progress of ``meter`` until the block ends."""
    ended = threading.Event()
    show = _bar if as_bar else _lines
    thread = threading.Thread(target=show, args=(meter, name, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(1.0)


def _lines(meter: Meter, name: str, ended: threading.Event) -> None:
    pause = FIRST_LINE_SECONDS
    while not ended.wait(pause):
        pause = LINE_SECONDS
        _log(meter, name)


def _log(meter: Meter, name: str) -> None:
    rate, left = meter.rate(), meter.total - meter.done
    eta = round(left / rate) if rate else None
    percent = 100 * meter.done // meter.total if meter.total else 100
    logger.info(
        "%s: %s (%d %%), %.1f MB/s, %s",
        name,
        _amount(meter.done, meter.total),
        percent,
        rate / 1e6,
        "stalled" if eta is None else f"{eta:,} s left",
        extra={
            "event": "progress",
            "fields": {
                "model": name,
                "done_bytes": meter.done,
                "total_bytes": meter.total,
                "bytes_per_second": round(rate),
                "eta_seconds": eta,
            },
        },
    )


def _amount(done: int, total: int) -> str:
    unit, name = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
    return f"{done / unit:.2f} of {total / unit:.2f} {name}"


def _bar(meter: Meter, name: str, ended: threading.Event) -> None:
    from tqdm import tqdm  # only a terminal needs it

    with tqdm(
        total=meter.total,
        initial=meter.done,
        desc=name,
        unit="B",
        unit_scale=True,
        file=sys.stderr,
        dynamic_ncols=True,
    ) as bar:
        is_last = False
        while not is_last:
            is_last = ended.wait(_BAR_SECONDS)
            bar.update(meter.done - bar.n)
