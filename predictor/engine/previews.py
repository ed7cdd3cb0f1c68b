"""Previews: the clean picture that the denoiser predicts, decoded while a picture is in flight.

The decoder belongs to finished pictures. A preview waits until it is free, and a later one of the
same picture replaces it. While others are in flight, all previews together take a small share of
the time of the steps; what does not fit is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from predictor.engine.capacity import Capacity
from predictor.engine.job import Job, PredictedPicture

# The share of the time of steps; encoding the files takes time on other threads.
_SHARE = 1 / 32
# A longer pause saves no more than this many previews.
_MOST_SAVED = 4


class PreviewQueue:
    """The previews that wait for the decoder, at most one of each picture."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._waiting: dict[Job, PredictedPicture] = {}
        # In the time of a step of one guided picture.
        self._saved = math.inf

    def add(self, batch: Sequence[Job]) -> None:
        """Add what the jobs of a turn have predicted, and save time for previews."""
        most = _MOST_SAVED * self._capacity.steps_per_decode
        self._saved = min(most, self._saved + len(batch) * _SHARE)
        for job in batch:
            if job.predicted is not None:
                self._waiting[job], job.predicted = job.predicted, None
        self._waiting = {job: one for job, one in self._waiting.items() if not _is_late(job)}

    def take(self, stepped: int, *, is_alone: bool) -> list[PredictedPicture]:
        """The previews of one shape to decode now, in at most the time of a step.

        ``stepped`` pictures have taken a step. ``is_alone``: no other picture waits for anything.
        """
        if is_alone:
            return self._taken(len(self._waiting))
        cost = self._capacity.steps_per_decode
        taken = self._taken(min(int(self._saved / cost), self._capacity.decodes(stepped)))
        self._saved -= len(taken) * cost
        return taken

    def clear(self) -> None:
        """Drop all previews."""
        self._waiting.clear()

    def _taken(self, most: int) -> list[PredictedPicture]:
        first = next(iter(self._waiting), None)
        alike = [one for job, one in self._waiting.items() if first and job.shape == first.shape]
        for one in alike[:most]:
            del self._waiting[one.job]
        return alike[:most]


def _is_late(job: Job) -> bool:
    """Whether the caller has left, or soon gets the picture itself."""
    return job.ticket.is_over or job.denoising.is_done
