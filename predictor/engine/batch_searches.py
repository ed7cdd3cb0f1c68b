"""The learned batch size of each kind of work."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple

from predictor.engine.batch_search import BatchSearch, Comparison

logger = logging.getLogger(__name__)

# Callers choose the size of their pictures, so the number of kinds needs a bound.
_MAX_KINDS = 64
# A kind that has not run for as many batches no longer counts.
_RECENT_BATCHES = 256


def _forget(best: int) -> None:
    pass


class Kind(NamedTuple):
    """Batches with equal ``key`` take about the same time for the same size.

    One item of the kind is worth ``unit`` items of the default kind. ``name`` is for the log.
    """

    key: Hashable
    unit: float
    name: str


@dataclass
class Start:
    """Where the search begins: with ``best`` items of the default kind, of at most ``largest``.

    ``is_settled`` says that an earlier search has found ``best``: it is then only checked after a
    while. ``on_learned`` gets the new ``best`` at the end of each search, on the engine's thread.
    """

    best: int
    largest: int
    is_settled: bool = False
    on_learned: Callable[[int], None] = _forget


class _Searched(NamedTuple):
    search: BatchSearch
    unit: float
    last_batch: int


class BatchSearches:
    """A ``BatchSearch`` for each kind, and the bounds that they have in common.

    A kind starts from what the others have found. ``best`` is the bound in items of the default
    kind. ``wanted`` items, of any kind, must be in flight for the searches to continue. ``noun``
    describes a batch in the log.
    """

    def __init__(self, start: Start, smallest: int, noun: str) -> None:
        self.best = min(start.best, start.largest)
        self.wanted = self.best
        self.changes: Counter[str] = Counter(grown=0, shrunk=0)
        self._largest = start.largest
        self._is_settled = start.is_settled
        self._on_learned = start.on_learned
        self._smallest = smallest
        self._noun = noun
        self._kinds: dict[Hashable, _Searched] = {}
        self._batch = 0

    def limit(self, kind: Kind, demand: int) -> int:
        """The most items in the next batch, of this kind, if ``demand`` items are ready."""
        self._batch += 1
        search = self._search(kind)
        self._kinds[kind.key] = _Searched(search, kind.unit, self._batch)
        limit = search.limit(demand)
        self.wanted = max(one.search.wanted for one in self._recent())
        return limit

    def observe(self, kind: Kind, size: int, seconds: float) -> Comparison | None:
        """Note the seconds of a batch; returns the comparison that it completes, if any."""
        search = self._search(kind)
        compared, changes = len(search.reasons), Counter(search.changes)
        is_over = search.observe(size, seconds)
        if search.changes != changes:
            self.changes.update(search.changes - changes)
            self._adopt()
        if is_over:
            self._report(kind, search)
        return search.reasons[-1] if len(search.reasons) > compared else None

    def shrink_to(self, largest: int) -> None:
        """Lower the bound of all kinds, in items of the default kind: memory has run out."""
        self._largest = max(1, min(self._largest, largest))
        for searched in self._kinds.values():
            searched.search.shrink_to(int(self._largest / searched.unit))
        self.best = min(self.best, self._largest)
        self.wanted = min(self.wanted, self._largest)
        if self._is_settled:
            self._on_learned(self.best)
        logger.warning("out of memory: up to %d %s from now on", self.best, self._noun)

    def _search(self, kind: Kind) -> BatchSearch:
        # Move it to the end, so that the first kind is the one that has not run for longest.
        searched = self._kinds.pop(kind.key, None) or self._begin(kind.unit)
        self._kinds[kind.key] = searched
        if len(self._kinds) > _MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        return searched.search

    def _begin(self, unit: float) -> _Searched:
        largest = max(1, int(self._largest / unit))
        best = max(min(self._smallest, largest), int(self.best / unit))
        search = BatchSearch(best, largest, smallest=self._smallest, is_settled=self._is_settled)
        return _Searched(search, unit, self._batch)

    def _recent(self) -> list[_Searched]:
        kinds = self._kinds.values()
        return [one for one in kinds if self._batch - one.last_batch < _RECENT_BATCHES]

    def _adopt(self) -> None:
        bounds = (int(one.search.best * one.unit) for one in self._recent())
        self.best = min(max(bounds, default=self.best), self._largest)

    def _report(self, kind: Kind, search: BatchSearch) -> None:
        self._is_settled = True
        self._on_learned(self.best)
        reasons = "".join(f"; {reason}" for reason in search.reasons)
        logger.info("%s: up to %d %s%s", kind.name, search.best, self._noun, reasons)
