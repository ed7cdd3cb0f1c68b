"""The engine for pipelines that the step loop does not support: requests share whole calls."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import ClassVar

from predictor.engine.admission import Admission
from predictor.engine.inbox import Inbox, Ticket
from predictor.engine.interfaces import (
    EngineState,
    GenerationCancelledError,
    Pipeline,
    StepListener,
)
from predictor.engine.isolation import run_isolated
from predictor.engine.second_measurement import SecondMeasurement
from predictor.engine.service_times import ServiceTimes
from predictor.engine.worker import Worker
from predictor.requests import GenerationRequest, GenerationResult
from predictor.stages import StageTime

logger = logging.getLogger(__name__)


@dataclass
class WholeCalls:
    """The ``Workload`` of whole calls of up to ``slots`` pictures each.

    The time of a step is only known once calls have run.
    """

    slots: int
    joins_midway: ClassVar[bool] = False
    has_times: ClassVar[bool] = False
    decode_seconds: ClassVar[float] = 0.0

    def size(self, request: GenerationRequest) -> float:
        """See ``Workload.size``: pictures of other shapes have a ratio of their own."""
        return 1.0

    def step_seconds(self, size: float) -> float:
        """See ``Workload.step_seconds``."""
        return size


class WholeBatchEngine:
    """An ``Engine`` over a pipeline's own call, which runs a batch from its first to its last step.

    A batch is the oldest request and waiting ones that differ from it only in prompt and seed, up
    to ``max_batch``. The engine never waits for a batch to fill.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        max_batch: int,
        max_queue_length: int,
        second_measurement: SecondMeasurement[int] | None = None,
        *,
        max_queue_seconds: float = math.inf,
        stall_seconds: float = 0.0,
    ) -> None:
        self._pipeline = pipeline
        self._second_measurement = second_measurement
        self._calls = WholeCalls(max_batch)
        self._in_flight = 0
        self._out_of_memory = 0
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
            self._calls.slots,
            self._out_of_memory,
            queue_seconds=self.admission.queue_seconds,
            failure=self._worker.failure,
        )

    @property
    def admission(self) -> Admission:
        """See ``Engine.admission``."""
        return self._inbox.admission

    async def submit(
        self, request: GenerationRequest, on_step: StepListener | None = None
    ) -> GenerationResult:
        """Generate one picture; see ``Engine.submit``."""
        self._worker.check()
        return await self._inbox.submit(request, on_step)

    def close(self) -> None:
        """Fail all unfinished requests; those in flight stop after the current step."""
        self._worker.close()

    def _take_turn(self) -> None:
        self._wait()
        tickets = self._next_batch()
        if not tickets:
            return
        self._in_flight = len(tickets)
        try:
            run_isolated(self._generate, tickets, self._shrink)
        finally:
            self._in_flight = 0

    def _wait(self) -> None:
        if self._second_measurement is None:
            self._inbox.wait()
        else:
            self._second_measurement.wait(self._inbox, self._worker.watchdog, self._improve)

    def _improve(self, measured: int) -> None:
        """Adopt a later measurement if it is larger, unless memory has run out since."""
        if not self._out_of_memory:
            self._calls.slots = max(self._calls.slots, measured)

    def _next_batch(self) -> list[Ticket]:
        return self._inbox.take_batch(batch_key, self._calls.slots)

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
        # Decoding counts as part of the steps.
        self._times.observe(requests, time.perf_counter() - last, steps=0)
        for ticket, result in zip(tickets, results, strict=True):
            waited = started - ticket.arrived
            stages = (StageTime("queue", ticket.arrived, waited), *result.stages)
            ticket.succeed(replace(result, queue_seconds=waited, stages=stages))

    def _shrink(self, tickets: list[Ticket]) -> None:
        """Halve the batch size: these tickets did not fit."""
        self._out_of_memory += 1
        self._calls.slots = max(1, len(tickets) // 2)
        logger.warning(
            "out of memory: at most %d pictures in one call from now on", self._calls.slots
        )


def _sizes(tickets: list[Ticket]) -> tuple[Hashable, ...]:
    """What the time of a step depends on."""
    request = tickets[0].request
    return request.width, request.height, request.task, request.adapters, len(tickets)


def batch_key(request: GenerationRequest) -> GenerationRequest:
    """Equal for requests that can share one call of a pipeline."""
    # SDXL replaces a missing negative prompt with zeros, so it cannot share a call.
    negative_prompt = "any" if request.negative_prompt else ""
    return replace(request, prompt="", negative_prompt=negative_prompt, seed=0)
