"""Continuous batching: requests share the denoiser step by step.

A request joins at any step and leaves when it is done. The number of steps, guidance, scheduler and
prompt may differ between requests. One thread runs turns: drop, admit, choose, step, decode.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Hashable, Iterable, Sequence
from functools import partial

import torch
from PIL import Image

from predictor.engine import cpu_threads
from predictor.engine.admission import Admission
from predictor.engine.capacity import Capacity, ForwardPass
from predictor.engine.embeddings import EmbeddingCache
from predictor.engine.finishers import Finishers
from predictor.engine.inbox import Inbox, Ticket
from predictor.engine.interfaces import (
    Denoiser,
    EngineState,
    Previews,
    StepListener,
)
from predictor.engine.isolation import run_isolated
from predictor.engine.job import Job, PredictedPicture, prompts_of
from predictor.engine.previews import PreviewQueue
from predictor.engine.run_ahead import RunAhead
from predictor.engine.service_times import ServiceTimes
from predictor.engine.step_timer import StepTimer
from predictor.engine.turn import Turn
from predictor.engine.worker import Worker
from predictor.library_exit import contained
from predictor.requests import GenerationRequest, GenerationResult
from predictor.stages import Stage

logger = logging.getLogger(__name__)


class StepEngine:
    """An ``Engine`` over a ``Denoiser``; the event loop's thread only waits.

    ``has_previews`` is False if the decoder cannot run between steps.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        capacity: Capacity,
        max_queue_length: int,
        *,
        max_queue_seconds: float = math.inf,
        stall_seconds: float = 0.0,
        has_previews: bool = True,
    ) -> None:
        self._denoiser = denoiser
        self._capacity = capacity
        self._has_previews = has_previews
        self._times = ServiceTimes(capacity)
        self._timer = StepTimer(capacity.observe)
        self._inbox = Inbox(
            Admission(max_queue_length, max_queue_seconds, self._times),
            guidance_is_input=denoiser.guidance_is_input,
        )
        with torch.inference_mode():
            self._embeddings = EmbeddingCache(denoiser.encode)
        self._in_flight: list[Job] = []
        self._denoised: list[Job] = []
        self._previews = PreviewQueue(capacity)
        self._turn = 0
        self._run_ahead = RunAhead()
        # One thread, so that equal requests prepare only once.
        self._preparer = cpu_threads.pool(1, "preparer")
        self._worker = Worker(self._inbox, self._take_turn, self._abandon, stall_seconds)
        self._finishers = Finishers(denoiser, self._worker)
        self._worker.start()

    @property
    def state(self) -> EngineState:
        """See ``Engine.state``."""
        in_flight = len(self._in_flight) + len(self._denoised)
        waiting = max(0, self._inbox.unfinished - in_flight)
        return EngineState(
            waiting,
            in_flight,
            self._capacity.lanes,
            self._capacity.out_of_memory,
            capacity_changes=dict(self._capacity.changes),
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
        """Generate one picture; see ``Engine.submit``."""
        self._worker.check()
        loop = asyncio.get_running_loop()
        prepare = contained("preparing the request")(self._denoiser.prepare)
        await loop.run_in_executor(self._preparer, prepare, request)
        shown = previews if self._has_previews else None
        return await self._inbox.submit(request, on_step, shown)

    def expect(self, step_seconds: float, decode_seconds: float) -> None:
        """See ``Capacity.expect``; nothing may be in flight."""
        self._capacity.expect(step_seconds, decode_seconds)
        self._times.restart()

    def close(self) -> None:
        """Fail all unfinished requests; those in flight stop after the current step."""
        self._worker.close()
        self._finishers.close()

    def _abandon(self, error: Exception) -> None:
        """Fail the jobs in flight and forget them."""
        jobs = [*self._in_flight, *self._denoised]
        self._in_flight, self._denoised = [], []
        self._previews.clear()
        self._run_ahead.forget()
        for job in jobs:
            job.fail(error)

    @torch.inference_mode()
    def _take_turn(self) -> None:
        if not self._in_flight and not self._denoised:
            self._inbox.wait()
        started = time.perf_counter()
        self._turn += 1
        self._drop()
        self._admit()
        batch = self._choose()
        if batch:
            with self._worker.watchdog.watch("step", batch[0].kind, len(batch)):
                run_isolated(self._step, batch, self._capacity.shrink)
            self._report_later(batch)
        self._retire()
        self._previews.add(batch)
        decoded = self._decode(len(batch)) or self._decode_previews(len(batch))
        if batch:
            with self._worker.watchdog.watch("step", batch[0].kind, len(batch)):
                self._run_ahead.wait(turns_left=1 if self._in_flight else 0)
        requests = [job.ticket.request for job in batch]
        self._times.observe(requests, time.perf_counter() - started, decoded=decoded)

    def _drop(self) -> None:
        """Drop the jobs that failed and those whose callers have left."""
        for job in self._in_flight:
            if job.ticket.future.cancelled():
                job.ticket.log(logger.info, "the caller left at %s", job)
        self._in_flight = [job for job in self._in_flight if not job.ticket.is_over]
        self._denoised = [job for job in self._denoised if not job.ticket.is_over]

    def _admit(self) -> None:
        """Admit as many waiting requests as fit.

        Jobs that wait for the decoder count too, or they would pile up behind a slow one.
        """
        used = sum(job.lanes for job in [*self._in_flight, *self._denoised])
        tickets = self._inbox.take(
            2 * self._capacity.jobs_in_flight - used,
            self._capacity.encodes(len(self._in_flight)),
        )
        if tickets:
            with self._worker.watchdog.watch("prompt encoding", *map(_encoding, tickets)):
                run_isolated(self._begin, tickets)

    def _begin(self, tickets: list[Ticket]) -> None:
        """Encode the prompts of all tickets in one call, and start from the prepared noise.

        This encodes for all experts, so that a later hand-over does not delay other jobs.
        """
        _enter(tickets, "prepare")
        begun = [self._denoiser.begin(ticket.request) for ticket in tickets]
        prompts = [prompts_of(*both) for both in zip(tickets, begun, strict=True)]
        _enter(tickets, "text")
        encoded = self._embeddings.get(
            prompt for own in prompts for lanes in own.values() for prompt in lanes
        )
        self._in_flight += [
            Job(
                ticket,
                denoising.next_stage(),
                {key: [encoded[prompt] for prompt in lanes] for key, lanes in own.items()},
                self._denoiser.warnings(ticket.request),
                self._turn,
            )
            for ticket, denoising, own in zip(tickets, begun, prompts, strict=True)
        ]
        for denoising in begun:
            denoising.next_stage().draw_ahead()
        for ticket, denoising in zip(tickets, begun, strict=True):
            self._times.observe_total(ticket.request, denoising.total_steps)
        _enter(tickets, "denoise")

    def _choose(self) -> list[Job]:
        """The job that has waited longest, and as many others of its kind as fit.

        A job therefore waits for at most as many turns as there are jobs in flight.
        """
        in_turn = sorted(self._in_flight, key=lambda job: job.waiting_since)
        return self._capacity.fitting([job for job in in_turn if job.kind == in_turn[0].kind])

    def _step(self, batch: list[Job]) -> None:
        """Run one forward pass for all lanes, then one update for all jobs."""
        with self._timer.time(ForwardPass.over(batch), batch[0].denoising.latents.device):
            turn = Turn(batch)
            turn.advance(self._denoiser.predict(turn.lanes()))
        for job in batch:
            job.waiting_since = self._turn + 1

    def _report_later(self, batch: list[Job]) -> None:
        """Report the steps to the callers when the device has taken them."""
        steps = [(job, job.denoising.steps_done) for job in batch]

        def report() -> None:
            for job, steps_done in steps:
                job.report_step(steps_done)

        self._run_ahead.launched(batch[0].denoising.latents.device, report)

    def _retire(self) -> None:
        """Free the lanes of the denoised jobs."""
        done = [job for job in self._in_flight if job.denoising.is_done]
        _enter([job.ticket for job in done], "decode")
        self._denoised += done
        self._in_flight = [job for job in self._in_flight if not job.denoising.is_done]

    def _decode(self, stepped: int) -> int:
        """Decode a few pictures, in at most the time of one step; return how many."""
        shape = next((job.shape for job in self._denoised), None)
        ready = [job for job in self._denoised if job.shape == shape]
        ready = ready[: self._capacity.decodes(stepped)]
        self._denoised = [job for job in self._denoised if job not in ready]
        if ready:
            with self._worker.watchdog.watch("decoding", shape, len(ready)):
                run_isolated(self._decode_together, ready)
        return len(ready)

    def _decode_together(self, jobs: list[Job]) -> None:
        decoded = self._denoiser.decode(torch.cat([job.denoising.latents for job in jobs]))
        for job, one in zip(jobs, decoded, strict=True):
            succeed = partial(self._succeed, job)
            self._finishers.convert(one, job.shape, succeed, job.fail, after=job.previewing)

    def _decode_previews(self, stepped: int) -> int:
        """Decode a few previews, which must not keep a picture waiting; return how many."""
        is_alone = self._inbox.unfinished <= 1
        # On a GPU, the decoder still runs after ``decode`` returns.
        if self._finishers.is_busy and not is_alone:
            return 0
        ready = self._previews.take(stepped, is_alone=is_alone)
        if ready:
            with self._worker.watchdog.watch("decoding", ready[0].job.shape, len(ready)):
                run_isolated(self._decode_previews_together, ready)
        return len(ready)

    def _decode_previews_together(self, predicted: list[PredictedPicture]) -> None:
        decoded = self._denoiser.decode(torch.cat([one.latents for one in predicted]))
        for one, image in zip(predicted, decoded, strict=True):
            before = one.job.previewing
            showing = self._finishers.convert(image, one.job.shape, one.show, one.fail, before)
            before.append(showing)

    def _succeed(self, job: Job, picture: Image.Image) -> None:
        """Return the picture to the caller."""
        # The engine's thread may not have seen the end of the last step yet.
        job.report_step(job.denoising.steps_done)
        result = GenerationResult(
            request=job.ticket.request,
            image=picture,
            seconds=time.perf_counter() - job.admitted,
            queue_seconds=job.admitted - job.ticket.arrived,
            warnings=job.warnings,
            stages=job.ticket.stages.stages(),
        )
        job.ticket.succeed(result)


def _enter(tickets: Iterable[Ticket], stage: Stage) -> None:
    for ticket in tickets:
        ticket.stages.enter(stage)


def _encoding(ticket: Ticket) -> Sequence[Hashable]:
    """What the time to begin the ticket depends on."""
    request = ticket.request
    size = (request.width, request.height) if ticket.input_images else ()
    return request.adapters, request.controlnet is not None, size
