"""Which calls an engine accepts: all pictures of a call or none, bounded in pictures and seconds.

Requests start in order of arrival, so none starves. Used on the event loop.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from predictor.engine.service_times import ServiceTimes
from predictor.errors import OverloadedError, WaitTooLongError
from predictor.requests import GenerationRequest

# Before the first measurement.
_DEFAULT_RETRY_SECONDS = 5.0
# Few steps are done within this time. A picture that arrives or leaves ends a forecast at once.
_FRESH_SECONDS = 0.05


class Unfinished(Protocol):
    """A picture that waits or is in flight; ``steps_left`` is None until the first step is done."""

    request: GenerationRequest
    steps_left: int | None

    @property
    def is_over(self) -> bool:
        """Whether the caller has a response or has left."""

    def fail(self, error: Exception) -> None:
        """Report the failure to the caller."""


class Forecast(NamedTuple):
    """In seconds from now: when each unfinished picture will be done, in no particular order.

    ``start`` is when the first of the new pictures takes its first step, ``end`` when the last one
    is done. All are 0 before the first measurement.
    """

    done: list[float]
    start: float
    end: float


class Admission:
    """The unfinished pictures of an engine, and the bounds for new ones.

    ``max_queue_length`` pictures may wait in addition to those in flight. A call is refused if its
    first picture would wait for longer than ``max_queue_seconds``. An idle engine accepts any call.
    """

    def __init__(
        self, max_queue_length: int, max_queue_seconds: float, times: ServiceTimes
    ) -> None:
        self._max_queue_length = max_queue_length
        self._max_queue_seconds = max_queue_seconds
        self._times = times
        self.tickets: dict[Unfinished, None] = {}
        self._reserved: dict[int, GenerationRequest] = {}
        self._current: tuple[float, Forecast] | None = None

    @property
    def queue_seconds(self) -> float:
        """The estimated wait of a picture that arrives now."""
        return self._current_forecast().start

    def check(self, pictures: int = 1) -> None:
        """Refuse a call of ``pictures`` pictures that is not decoded yet, if it has no place now.

        Raises:
            OverloadedError: the queue has no room, or the wait would be too long.
        """
        if not self._unfinished:
            return
        missing = self._unfinished + pictures - self._max_unfinished
        if missing > 0:
            done = sorted(self._current_forecast().done) or [0.0]
            seconds = done[min(missing, len(done)) - 1]
            raise OverloadedError(self._full(pictures), _retry_seconds(seconds))
        self._check_wait(self.queue_seconds)

    @contextmanager
    def reserve(
        self, requests: Sequence[GenerationRequest], timeout: float | None = None
    ) -> Iterator[None]:
        """Reserve places for all pictures of a call; ``Inbox.submit`` takes them.

        Raises:
            OverloadedError: the queue has no room, the wait would be too long, or the pictures
                would take longer than ``timeout`` seconds while others are unfinished.
        """
        self.check(len(requests))
        # An idle engine may have become faster since its last measurement, so let it try.
        if timeout is not None and self._unfinished:
            self._check_timeout(requests, timeout)
        # By identity: equal requests of two calls have a place each.
        places = {id(request): request for request in requests}
        self._reserved |= places
        self._current = None
        try:
            yield
        finally:
            for place in places:
                self._reserved.pop(place, None)
            self._current = None

    @contextmanager
    def entered(self, ticket: Unfinished) -> Iterator[None]:
        """Count the ticket as unfinished, in its reserved place if it has one.

        Raises:
            OverloadedError: see ``check``.
        """
        if self._reserved.pop(id(ticket.request), None) is None:
            self.check()
        self.tickets[ticket] = None
        self._current = None
        try:
            yield
        finally:
            del self.tickets[ticket]
            self._current = None

    @property
    def _unfinished(self) -> int:
        return len(self.tickets) + len(self._reserved)

    @property
    def _max_unfinished(self) -> int:
        # Count all unfinished tickets: when the engine takes them from the queue is a race.
        return self._max_queue_length + self._times.workload.slots

    def _full(self, pictures: int) -> str:
        room = self._max_unfinished - self._unfinished
        if room <= 0:
            return f"{self._max_queue_length} pictures are waiting already; try again later"
        return (
            f"the queue has room for {room} pictures, and the request has {pictures}; "
            "try again later"
        )

    def _check_wait(self, seconds: float) -> None:
        most = self._max_queue_seconds
        if seconds > most:
            raise WaitTooLongError(
                f"the picture would wait for {seconds:.1f} s; the limit is {most:g} s; "
                "try again later",
                _retry_seconds(seconds - most),
            )

    def _check_timeout(self, requests: Sequence[GenerationRequest], timeout: float) -> None:
        end = self._forecast(requests).end
        if end > timeout:
            raise WaitTooLongError(
                f"timeout: the pictures would take about {end:.1f} s, "
                f"and timeout is {timeout:g} s; try again later",
                _retry_seconds(end - timeout),
            )

    def _current_forecast(self) -> Forecast:
        """The forecast without new pictures, kept for a moment so that refusals are cheap."""
        now = time.monotonic()
        if self._current is None or now >= self._current[0]:
            self._current = now + _FRESH_SECONDS, self._forecast(())
        return self._current[1]

    def _forecast(self, new: Sequence[GenerationRequest]) -> Forecast:
        """Play the queue forward: in each round, all pictures in flight take a step.

        Pictures that wait start in order of arrival, as soon as an earlier one is done.
        """
        tickets = [ticket for ticket in list(self.tickets) if not ticket.is_over]
        begun = [ticket for ticket in tickets if ticket.steps_left is not None]
        queued = [ticket.request for ticket in tickets if ticket.steps_left is None]
        queued += [*self._reserved.values(), *new]
        requests = [*(ticket.request for ticket in begun), *queued]
        if not requests:
            return Forecast([], 0.0, 0.0)
        workload = self._times.workload
        seconds = self._times.round_seconds(requests, min(workload.slots, len(requests)))
        done = [max(1, ticket.steps_left or 0) * seconds for ticket in begun]
        free_at = 0.0 if workload.joins_midway else max(done, default=0.0)
        # Pictures that wait for the decoder keep their places, so more may have begun than fit.
        places = heapq.nlargest(workload.slots, done)
        places += [free_at] * (workload.slots - len(places))
        heapq.heapify(places)
        starts = [places[0]]
        for request in queued:
            end = places[0] + self._times.steps_of(request) * seconds
            heapq.heapreplace(places, end)
            done.append(end)
            starts.append(places[0])
        before = len(requests) - len(new)
        return Forecast(
            done[:before], starts[len(queued) - len(new)], max(done[before:], default=0.0)
        )


def _retry_seconds(seconds: float) -> float:
    """Spread the retries over whole seconds, or refused callers would return together."""
    seconds = seconds or _DEFAULT_RETRY_SECONDS
    return seconds + random.uniform(0, max(2.0, seconds / 4))  # noqa: S311 - no secret
