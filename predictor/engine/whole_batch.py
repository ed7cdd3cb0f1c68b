"""The engine for pipelines that the step loop does not support: requests share whole calls."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import ClassVar

from predictor.engine.admission import Admission
from predictor.engine.batch_searches import BatchSearches, Kind, Start
from predictor.engine.inbox import Inbox, Ticket
from predictor.engine.interfaces import (
    EngineState,
    GenerationCancelledError,
    Pipeline,
    Previews,
    StepListener,
)
from predictor.engine.isolation import run_isolated
from predictor.engine.service_times import ServiceTimes
from predictor.engine.worker import Worker
from predictor.requests import GenerationRequest, GenerationResult
from predictor.stages import StageTime


class WholeCalls:
    """The ``Workload`` of whole calls, which learns from them how many pictures to generate in one.

    The time of a step is only known once calls have run.
    """

    joins_midway: ClassVar[bool] = False
    has_times: ClassVar[bool] = False
    decode_seconds: ClassVar[float] = 0.0

    def __init__(self, max_batch: int, start: Start | None) -> None:
        start = start or Start(max_batch, max_batch, is_settled=True)
        self._searches = BatchSearches(start, 1, "pictures in one call")
        self.out_of_memory = 0

    @property
    def slots(self) -> int:
        """See ``Workload.slots``."""
        return self._searches.wanted

    @property
    def max_batch(self) -> int:
        """The most pictures in one call."""
        return self._searches.best

    @property
    def changes(self) -> Counter[str]:
        """How often ``max_batch`` has ``grown`` or ``shrunk`` because of the time of calls."""
        return self._searches.changes

    def size(self, request: GenerationRequest) -> float:
        """See ``Workload.size``: pictures of other shapes have a ratio of their own."""
        return 1.0

    def step_seconds(self, size: float) -> float:
        """See ``Workload.step_seconds``."""
        return size

    def limit(self, matching: Sequence[Ticket]) -> int:
        """How many of these matching tickets to run in one call."""
        return self._searches.limit(_kind(matching[0].request), len(matching))

    def observe(self, requests: Sequence[GenerationRequest], seconds: float) -> None:
        """Learn from a call that took ``seconds``."""
        self._searches.observe(_kind(requests[0]), len(requests), seconds)

    def shrink(self, pictures: int) -> None:
        """Halve the batch: a call of as many pictures did not fit."""
        self.out_of_memory += 1
        self._searches.shrink_to(pictures // 2)


class WholeBatchEngine:
    """An ``Engine`` over a pipeline's own call, which runs a batch from its first to its last step.

    A batch is the oldest request and waiting ones that differ from it only in prompt and seed, up
    to ``max_batch``, unless the engine learns that number from ``start``. It never waits for a
    batch to fill.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        max_batch: int,
        max_queue_length: int,
        *,
        start: Start | None = None,
        max_queue_seconds: float = math.inf,
        stall_seconds: float = 0.0,
    ) -> None:
        self._pipeline = pipeline
        self._calls = WholeCalls(max_batch, start)
        self._in_flight = 0
        self._times = ServiceTimes(self._calls)
        self._inbox = Inbox(Admission(max_queue_length, max_queue_seconds, self._times))
        self._worker = Worker(self._inbox, self._take_turn, lambda error: None, stall_seconds)
        self._worker.start()

    @property
    def state(self) -> EngineState:
        """See ``Engine.state``."""
        waiting = max(0, self._inbox.unfinished - self._in_flight)
        return EngineState(
            waiting,
            self._in_flight,
            self._calls.max_batch,
            self._calls.out_of_memory,
            capacity_changes=dict(self._calls.changes),
            queue_seconds=self.admission.queue_seconds,
            failure=self._worker.failure,
        )

    @property
    def admission(self) -> Admission:
        """See ``Engine.admission``."""
        return self._inbox.admission

    async def submit(
        self,
        request: GenerationRequest,
        on_step: StepListener | None = None,
        previews: Previews | None = None,
    ) -> GenerationResult:
        """Generate one picture, without previews; see ``Engine.submit``."""
        self._worker.check()
        return await self._inbox.submit(request, on_step)

    def close(self) -> None:
        """Fail all unfinished requests; those in flight stop after the current step."""
        self._worker.close()

    def _take_turn(self) -> None:
        self._inbox.wait()
        tickets = self._next_batch()
        if not tickets:
            return
        self._in_flight = len(tickets)
        try:
            run_isolated(self._generate, tickets, self._shrink)
        finally:
            self._in_flight = 0

    def _next_batch(self) -> list[Ticket]:
        return self._inbox.take_batch(batch_key, self._calls.limit)

    def _generate(self, tickets: list[Ticket]) -> None:
        """Generate all pictures in one call; stop it once every caller has left."""
        started = last = time.perf_counter()
        requests = [ticket.request for ticket in tickets]

        def on_step(step: int, steps: int) -> None:
            nonlocal last
            if self._inbox.is_closed or all(ticket.is_over for ticket in tickets):
                raise GenerationCancelledError
            self._worker.watchdog.note_progress()
            for ticket in tickets:
                ticket.report_step(step, steps)
            if step == 1:
                self._times.observe_total(requests[0], steps)
            self._times.observe(requests, time.perf_counter() - last)
            last = time.perf_counter()

        try:
            with self._worker.watchdog.watch("pipeline call", *_sizes(tickets)):
                results = self._pipeline.generate(requests, on_step)
        except GenerationCancelledError as error:
            for ticket in tickets:
                ticket.fail(error)
            return
        self._calls.observe(requests, time.perf_counter() - started)
        # Decoding counts as part of the steps.
        self._times.observe(requests, time.perf_counter() - last, steps=0)
        for ticket, result in zip(tickets, results, strict=True):
            waited = started - ticket.arrived
            stages = (StageTime("queue", ticket.arrived, waited), *result.stages)
            ticket.succeed(replace(result, queue_seconds=waited, stages=stages))

    def _shrink(self, tickets: list[Ticket]) -> None:
        """Halve the batch size: these tickets did not fit."""
        self._calls.shrink(len(tickets))


def _kind(request: GenerationRequest) -> Kind:
    """Calls of this kind take about the same time for the same number of pictures."""
    size = f"{request.width}x{request.height}"
    is_guided = request.guidance_scale > 1
    key = (size, request.task, request.adapters, request.steps_taken, is_guided)
    return Kind(key, 1.0, f"{size}, {request.steps_taken} steps")


def _sizes(tickets: list[Ticket]) -> tuple[Hashable, ...]:
    """What the time of a step depends on."""
    request = tickets[0].request
    return request.width, request.height, request.task, request.adapters, len(tickets)


def batch_key(request: GenerationRequest) -> GenerationRequest:
    """Equal for requests that can share one call of a pipeline."""
    # SDXL replaces a missing negative prompt with zeros, so it cannot share a call.
    negative_prompt = "any" if request.negative_prompt else ""
    return replace(request, prompt="", negative_prompt=negative_prompt, seed=0)
