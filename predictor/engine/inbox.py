"""The queue of requests between the event loop and the engine's thread."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import replace
from typing import Any

from predictor.engine.admission import Admission
from predictor.engine.faults import is_out_of_memory
from predictor.engine.interfaces import GenerationCancelledError, Previews, StepListener
from predictor.errors import GenerationFailedError, PredictorError
from predictor.requests import GenerationRequest, GenerationResult
from predictor.stages import StageClock

logger = logging.getLogger(__name__)


class Ticket:
    """One request in the queue; the caller cancels it by cancelling the future.

    ``steps_left`` is None until the first step is done. For ``guidance_is_input`` see
    ``GenerationRequest.cfg_scale``.
    """

    def __init__(
        self,
        request: GenerationRequest,
        on_step: StepListener | None,
        previews: Previews | None = None,
        *,
        guidance_is_input: bool = False,
    ) -> None:
        self.request = request
        self.previews = previews
        self.cfg_scale = request.cfg_scale(guidance_is_input=guidance_is_input)
        self.arrived = time.perf_counter()
        self.stages = StageClock("queue", self.arrived)
        self.future: Future[GenerationResult] = Future()
        self.steps_left: int | None = None
        self._context = copy_context()
        self._on_step = on_step
        self._first_step_seconds = 0.0
        self._answering = threading.Lock()

    @property
    def lanes(self) -> int:
        """Two with guidance, which adds a lane for the negative prompt; else one."""
        return lanes_of(self.cfg_scale)

    @property
    def input_images(self) -> int:
        """How many pictures to encode before the first step."""
        return int(self.request.image is not None)

    @property
    def is_over(self) -> bool:
        """Whether the caller has a response or has left."""
        return self.future.done()

    def report_step(self, step: int, steps: int) -> None:
        """Report to the caller that ``step`` of ``steps`` are done."""
        self.steps_left = steps - step
        if not self._first_step_seconds:
            self._first_step_seconds = time.perf_counter() - self.arrived
        if self._on_step is not None:
            self._on_step(step, steps)

    def log(self, write: Callable[..., None], *arguments: object, **options: Any) -> None:
        """Call a logger's method so that its line carries the identifiers of this request."""
        self._context.copy().run(write, *arguments, stacklevel=2, **options)

    def succeed(self, result: GenerationResult) -> None:
        """Return the picture to the caller."""
        result = replace(result, first_step_seconds=self._first_step_seconds)
        with self._answering:
            if not self.is_over and self.future.set_running_or_notify_cancel():
                self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Log the cause, and raise an error without internals for the caller."""
        if self.is_over:
            return
        if not isinstance(error, GenerationCancelledError):
            self.log(logger.error, "a picture failed", exc_info=error)
            error = _public_error(error)
        with self._answering:
            if not self.is_over and self.future.set_running_or_notify_cancel():
                self.future.set_exception(error)


def lanes_of(cfg_scale: float) -> int:
    """The number of lanes of a picture; see ``Ticket.lanes``."""
    return 2 if cfg_scale > 1 else 1


def _public_error(error: BaseException) -> PredictorError:
    if isinstance(error, PredictorError):
        return error
    if is_out_of_memory(error):
        return GenerationFailedError(
            "the picture does not fit into the device's memory; request fewer pixels"
        )
    if isinstance(error, ArithmeticError):
        return GenerationFailedError(
            f"{error}; try another scheduler, more steps or a lower guidance_scale"
        )
    return GenerationFailedError("generating the picture failed; the server's log has the cause")


class Inbox:
    """A first-in, first-out queue with one consumer thread."""

    def __init__(self, admission: Admission, *, guidance_is_input: bool = False) -> None:
        self.admission = admission
        self._guidance_is_input = guidance_is_input
        self._tickets: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self.is_closed = False
        self._closing_error: Exception = GenerationCancelledError()

    @property
    def unfinished(self) -> int:
        """The number of pictures that wait or are in flight."""
        return len(self.admission.tickets)

    async def submit(
        self,
        request: GenerationRequest,
        on_step: StepListener | None,
        previews: Previews | None = None,
    ) -> GenerationResult:
        """Wait for the picture, on the event loop.

        Raises:
            OverloadedError: the admission has no place for it.
        """
        ticket = Ticket(request, on_step, previews, guidance_is_input=self._guidance_is_input)
        with self.admission.entered(ticket):
            self.put(ticket)
            return await asyncio.wrap_future(ticket.future)

    def put(self, ticket: Ticket) -> None:
        """Queue a ticket; if the inbox is closed, fail it at once."""
        with self._changed:
            if not self.is_closed:
                self._tickets.append(ticket)
                self._changed.notify()
                return
        ticket.fail(self._closing_error)

    def take(self, lanes: int, input_images: int) -> list[Ticket]:
        """The oldest tickets that fit, strictly in order of arrival, so that none starves."""
        taken: list[Ticket] = []
        with self._changed:
            while self._tickets:
                ticket = self._tickets[0]
                if not ticket.is_over:
                    if ticket.lanes > lanes or ticket.input_images > input_images:
                        break
                    lanes -= ticket.lanes
                    input_images -= ticket.input_images
                    taken.append(ticket)
                self._tickets.popleft()
        return taken

    def take_batch(
        self,
        batch_key: Callable[[GenerationRequest], Hashable],
        limit: Callable[[Sequence[Ticket]], int],
    ) -> list[Ticket]:
        """The oldest tickets with one ``batch_key``; ``limit`` says how many of all of them."""
        with self._changed:
            waiting = [ticket for ticket in self._tickets if not ticket.is_over]
            if not waiting:
                self._tickets.clear()
                return []
            key = batch_key(waiting[0].request)
            matching = [ticket for ticket in waiting if batch_key(ticket.request) == key]
            taken = matching[: limit(matching)]
            self._tickets = deque(ticket for ticket in waiting if ticket not in taken)
        return taken

    def wait(self, seconds: float | None = None) -> bool:
        """Return True once a ticket waits or the inbox is closed, or False after ``seconds``."""
        with self._changed:
            return self._changed.wait_for(self._should_wake, seconds)

    def _should_wake(self) -> bool:
        return bool(self._tickets) or self.is_closed

    def fail_all(self, error: Exception) -> None:
        """Fail every unfinished ticket, taken or not, after an internal error in the engine."""
        with self._changed:
            unfinished = list(self.admission.tickets)
            self._tickets.clear()
        for ticket in unfinished:
            ticket.fail(error)

    def fail_waiting(self, error: Exception) -> None:
        """Fail the tickets that were not taken yet."""
        with self._changed:
            waiting = list(self._tickets)
            self._tickets.clear()
        for ticket in waiting:
            ticket.fail(error)

    def close(self, error: Exception | None = None) -> None:
        """Fail all waiting and later tickets, as cancelled unless an error is given."""
        with self._changed:
            if not self.is_closed:
                self._closing_error = error or self._closing_error
            self.is_closed = True
            self._changed.notify()
        self.fail_waiting(self._closing_error)
