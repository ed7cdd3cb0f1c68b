"""Continuous batching: requests share the denoiser step by step.

A request joins at any step and leaves when it is done. The number of steps, guidance, scheduler and
prompt may differ between requests. One thread runs turns: drop, admit, choose, step, decode.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor

import torch

from predictor.engine.capacity import Capacity
from predictor.engine.denoising import Denoising
from predictor.engine.embeddings import EmbeddingCache, Prompt
from predictor.engine.inbox import Inbox, Ticket
from predictor.engine.interfaces import (
    Denoiser,
    EngineState,
    GenerationCancelledError,
    StepListener,
)
from predictor.engine.isolation import run_isolated
from predictor.engine.job import Job
from predictor.engine.second_measurement import SecondMeasurement
from predictor.engine.turn import Turn
from predictor.requests import GenerationRequest, GenerationResult

logger = logging.getLogger(__name__)

# Read at import: a later ``set_num_threads`` in any thread changes the default of new threads.
_THREADS = torch.get_num_threads()


class StepEngine:
    """An ``Engine`` over a ``Denoiser``; the event loop's thread only waits."""

    def __init__(
        self,
        denoiser: Denoiser,
        capacity: Capacity,
        max_queue_length: int,
        second_measurement: SecondMeasurement[Capacity] | None = None,
    ) -> None:
        self._denoiser = denoiser
        self._capacity = capacity
        self._second_measurement = second_measurement
        self._inbox = Inbox(max_queue_length)
        with torch.inference_mode():
            self._embeddings = EmbeddingCache(denoiser.encode)
        self._in_flight: list[Job] = []
        self._denoised: list[Job] = []
        self._turn = 0
        # One OpenMP thread per finisher: larger idle pools slow down every step on a CPU, by a
        # sixth at 256x256.
        self._finishers = ThreadPoolExecutor(
            2, "finisher", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._worker = threading.Thread(target=self._run, name="engine", daemon=True)
        self._worker.start()

    @property
    def state(self) -> EngineState:
        """See ``Engine.state``."""
        in_flight = len(self._in_flight) + len(self._denoised)
        waiting = max(0, self._inbox.unfinished - in_flight)
        return EngineState(waiting, in_flight, self._capacity.lanes, self._capacity.out_of_memory)

    async def submit(
        self, request: GenerationRequest, on_step: StepListener | None = None
    ) -> GenerationResult:
        """Generate one picture; see ``Engine.submit``."""
        await asyncio.to_thread(self._denoiser.prepare, request)
        return await self._inbox.submit(request, on_step, self._capacity.jobs_in_flight)

    def close(self) -> None:
        """Fail all unfinished requests; those in flight stop after the current step."""
        self._inbox.close()
        self._worker.join()
        self._finishers.shutdown(wait=True)

    @torch.inference_mode()
    def _run(self) -> None:
        torch.set_num_threads(_THREADS)
        while not self._inbox.is_closed:
            try:
                self._take_turn()
            except Exception as error:
                # An internal error (a bug) must not leave callers waiting forever.
                self._in_flight, self._denoised = [], []
                self._inbox.fail_all(error)
        for job in [*self._in_flight, *self._denoised]:
            job.fail(GenerationCancelledError())
        self._in_flight, self._denoised = [], []

    def _take_turn(self) -> None:
        if not self._in_flight and not self._denoised:
            self._wait()
        self._turn += 1
        self._drop()
        self._admit()
        batch = self._choose()
        if batch:
            run_isolated(self._step, batch, self._capacity.shrink)
        self._retire()
        self._decode(len(batch))

    def _wait(self) -> None:
        if self._second_measurement is None:
            self._inbox.wait()
        else:
            self._second_measurement.wait(self._inbox, self._capacity.improve)

    def _drop(self) -> None:
        """Drop the jobs that failed and those whose callers have left."""
        for job in self._in_flight:
            if job.ticket.future.cancelled():
                logger.info("the caller left at %s", job)
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
            run_isolated(self._begin, tickets)

    def _begin(self, tickets: list[Ticket]) -> None:
        """Encode the prompts of all tickets in one call and create their schedulers and noise.

        This encodes for all experts, so that a later hand-over does not delay other jobs.
        """
        begun = [self._denoiser.begin(ticket.request) for ticket in tickets]
        prompts = [_prompts(*both) for both in zip(tickets, begun, strict=True)]
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

    def _choose(self) -> list[Job]:
        """The job that has waited longest, and as many others of its kind as fit.

        A job therefore waits for at most as many turns as there are jobs in flight.
        """
        in_turn = sorted(self._in_flight, key=lambda job: job.waiting_since)
        return self._capacity.fitting(job for job in in_turn if job.kind == in_turn[0].kind)

    def _step(self, batch: list[Job]) -> None:
        """Run one forward pass for all lanes, then one update for all jobs."""
        turn = Turn(batch)
        turn.advance(self._denoiser.predict(turn.lanes()))
        for job in batch:
            job.waiting_since = self._turn + 1

    def _retire(self) -> None:
        """Free the lanes of the denoised jobs."""
        self._denoised += [job for job in self._in_flight if job.denoising.is_done]
        self._in_flight = [job for job in self._in_flight if not job.denoising.is_done]

    def _decode(self, stepped: int) -> None:
        """Decode a few pictures, in at most the time of one step."""
        shape = next((job.shape for job in self._denoised), None)
        ready = [job for job in self._denoised if job.shape == shape]
        ready = ready[: self._capacity.decodes(stepped)]
        self._denoised = [job for job in self._denoised if job not in ready]
        if ready:
            run_isolated(self._decode_together, ready)

    def _decode_together(self, jobs: list[Job]) -> None:
        images = self._denoiser.decode(torch.cat([job.denoising.latents for job in jobs]))
        for job, image in zip(jobs, images.chunk(len(jobs)), strict=True):
            self._finishers.submit(self._finish, job, image)

    def _finish(self, job: Job, image: torch.Tensor) -> None:
        """Return the picture to the caller, on another thread so that steps do not wait."""
        try:
            picture = self._denoiser.finish(image)
        except Exception as error:
            job.fail(error)
            return
        result = GenerationResult(
            request=job.ticket.request,
            image=picture,
            seconds=time.perf_counter() - job.admitted,
            queue_seconds=job.admitted - job.ticket.arrived,
            warnings=job.warnings,
        )
        job.ticket.succeed(result)


def _prompts(ticket: Ticket, denoising: Denoising) -> dict[Hashable, list[Prompt]]:
    """For each expert's encoders, the prompts of the ticket's lanes, negative prompt first."""
    return {expert.encoders: _lane_prompts(ticket, expert) for expert in denoising.experts}


def _lane_prompts(ticket: Ticket, expert: Denoising) -> list[Prompt]:
    prompt = Prompt(ticket.request.prompt, expert.encoders)
    if ticket.lanes == 1:
        return [prompt]
    return [Prompt(ticket.request.negative_prompt, expert.negative_encoders), prompt]
