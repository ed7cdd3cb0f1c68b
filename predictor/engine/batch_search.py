"""Finds the batch size above which larger batches no longer pay off, from the batches that run."""

from __future__ import annotations

from collections import Counter, deque
from math import sqrt
from statistics import median
from typing import Literal, NamedTuple

# A doubled batch doubles the wait for the next one, so it must raise throughput by at least this
# share. A single miss may be noise: the search tries one more doubling.
_LEAST_GAIN = 0.1
# A size in use stays until half of it is this fast. The gap to ``_LEAST_GAIN`` stops a size between
# two bounds from changing back and forth; each change of direction widens it.
_LEAST_LOSS = 0.05
_WIDER = 0.1
# A comparison ends early if the gain differs from the bound by as many standard errors.
_FEWEST_SAMPLES, _MOST_SAMPLES = 6, 31
# On a slow device, fewer samples must do, or the search would take minutes.
_MOST_SECONDS = 10.0
_CLEAR = 3.0
# If it ends without that, the gain must differ by as many for the size to change.
_SURE = 2.0
# The standard error of a median, by the median absolute deviation and the square root of the number
# of samples, if they are distributed normally: 1.2533 times 1.4826.
_ERROR_OF_A_MEDIAN = 1.858
# A few samples may be closer to each other than the next ones.
_LEAST_SPREAD = 0.02
# The search repeats after this much work, and then after twice as much each time.
_FIRST_REVIEW_SECONDS, _LAST_REVIEW_SECONDS = 60.0, 3600.0

Change = Literal["grown", "shrunk"]


class Comparison(NamedTuple):
    """Batches of two sizes, and the seconds that each takes; ``error`` is that of ``gain``."""

    small: int
    small_seconds: float
    large: int
    large_seconds: float
    error: float = 0.0

    @property
    def gain(self) -> float:
        """How much higher the throughput of the large batch is; 0.1 is 10 %."""
        small, large = self.small / self.small_seconds, self.large / self.large_seconds
        return large / small - 1

    def __str__(self) -> str:
        return f"{self.large} are {1 + self.gain:.2f} times as fast as {self.small}"


class BatchSearch:
    """The best size for batches of one kind.

    The search doubles the size while that raises throughput. It alternates between two sizes, so
    that a change of speed affects both, and takes the median gain. After a while it checks half
    the size and twice the size again.

    ``smallest`` and ``largest`` bound the size. ``is_settled`` says that ``best`` is a result of an
    earlier search, which is only checked after a while.
    """

    def __init__(
        self, best: int, largest: int, *, smallest: int = 1, is_settled: bool = False
    ) -> None:
        self.best = best
        self.largest = largest
        self.changes: Counter[str] = Counter(grown=0, shrunk=0)
        self.reasons: list[Comparison] = []
        self._smallest = smallest
        self._is_first = not is_settled
        self._ran: set[int] = set()
        self._misses = 0
        self._has_shrunk = False
        self._last_change: Change | None = None
        self._reversals = 0
        self._review_seconds = _FIRST_REVIEW_SECONDS
        self._worked = 0.0
        self._small = self._large = 0
        self._samples: dict[int, deque[float]] = {}
        self._is_large_next = True
        if self._is_first:
            self._look_up()

    @property
    def is_settled(self) -> bool:
        """Whether no comparison is in progress."""
        return not self._large

    @property
    def wanted(self) -> int:
        """The size that the search needs to run; ``best`` if it is settled."""
        return max(self.best, self._large)

    def limit(self, demand: int) -> int:
        """The largest size of the next batch if the work in the queue amounts to ``demand``."""
        if self._large and demand >= self._large:
            self._is_large_next = not self._is_large_next
            return self._large if self._is_large_next else self._small
        # The first search has not shown yet that ``best`` is better than what waits.
        return self._large if self._large and self._is_first and not self._misses else self.best

    def observe(self, size: int, seconds: float) -> bool:
        """Note the seconds of a batch; returns whether this has ended a search."""
        if size not in self._ran:
            # The first run of a size selects kernels and allocates memory.
            self._ran.add(size)
            return False
        self._worked += seconds
        if self.is_settled:
            self._review_when_due()
            return False
        for compared, samples in self._samples.items():
            # Lanes come in pairs, so a batch may be one short.
            if 8 * size >= 7 * compared and size <= compared:
                # A clock of low resolution may return 0.
                samples.append(max(seconds, 1e-9) / size)
        return self._decide()

    def shrink_to(self, largest: int) -> None:
        """Set the bound: a larger batch did not fit into memory."""
        self.largest = max(1, min(self.largest, largest))
        self.best = min(self.best, self.largest)
        if self._large > self.largest:
            self._settle()

    def _decide(self) -> bool:
        comparison = self._compared()
        if comparison is None:
            return False
        self.reasons.append(comparison)
        if comparison.large == self.best:
            return self._decide_below(comparison)
        return self._decide_above(comparison)

    def _compared(self) -> Comparison | None:
        small, large = self._samples[self._small], self._samples[self._large]
        # Neighbours in time, so that a change of speed affects both of a pair.
        gains = [one / other - 1 for one, other in zip(small, large, strict=False)]
        if len(gains) < _FEWEST_SAMPLES:
            return None
        gain = median(gains)
        spread = max(_LEAST_SPREAD, median(abs(one - gain) for one in gains))
        error = _ERROR_OF_A_MEDIAN * spread / sqrt(len(gains))
        is_clear = abs(gain - self._bound) >= _CLEAR * error
        seconds = self._small * sum(small) + self._large * sum(large)
        if not is_clear and len(gains) < _MOST_SAMPLES and seconds < _MOST_SECONDS:
            return None
        large_seconds = self._large * median(large)
        small_seconds = large_seconds * (1 + gain) * self._small / self._large
        return Comparison(self._small, small_seconds, self._large, large_seconds, error)

    @property
    def _bound(self) -> float:
        """The gain of the comparison in progress that decides."""
        if self._large == self.best:
            return _LEAST_LOSS - _WIDER * self._reversals
        return _LEAST_GAIN + _WIDER * self._reversals

    def _decide_above(self, found: Comparison) -> bool:
        # If the samples do not show a difference, the size stays.
        if found.gain - _SURE * found.error >= self._bound:
            self._change("grown", found.large)
            self._misses = 0
        else:
            self._misses += 1
        return self._look_up()

    def _decide_below(self, found: Comparison) -> bool:
        if found.gain + _SURE * found.error >= self._bound:
            return self._settle() if self._has_shrunk else self._look_up()
        self._change("shrunk", found.small)
        self._has_shrunk = True
        return self._look_down()

    def _change(self, change: Change, best: int) -> None:
        self._reversals += self._last_change not in (None, change)
        self._last_change = change
        self.changes[change] += 1
        self.best = best

    def _review_when_due(self) -> None:
        if self._worked < self._review_seconds:
            return
        self._review_seconds = min(2 * self._review_seconds, _LAST_REVIEW_SECONDS)
        self._misses = 0
        self._has_shrunk = False
        self.reasons.clear()
        self._look_down()

    def _look_down(self) -> bool:
        if self.best // 2 >= self._smallest:
            return self._compare(self.best // 2, self.best)
        return self._settle() if self._has_shrunk else self._look_up()

    def _look_up(self) -> bool:
        large = 2 * self.best << self._misses
        if self._misses > 1 or large > self.largest:
            return self._settle()
        return self._compare(self.best, large)

    def _compare(self, small: int, large: int) -> bool:
        self._small, self._large = small, large
        self._samples = {size: deque(maxlen=_MOST_SAMPLES) for size in (small, large)}
        return False

    def _settle(self) -> bool:
        self._small = self._large = 0
        self._samples = {}
        self._is_first = False
        self._worked = 0.0
        return True
