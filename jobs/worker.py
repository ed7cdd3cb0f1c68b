"""Pulls jobs from the queue, as many as the predictor takes, and sweeps the storage."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from jobs.attempt import Attempt
from jobs.errors import StorageUnavailableError
from jobs.predictor_client import PredictorClient
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.storage.changes import wait_briefly
from jobs.upload import ExpiredUploads

if TYPE_CHECKING:
    from jobs.bucket import Bucket

logger = logging.getLogger(__name__)

# Changes wake the worker at once; this is for those that get lost.
_POLL_SECONDS = 5.0
_SWEEP_SECONDS = 1.0
_CAPACITY_SECONDS = 5.0
# After SIGTERM and ``drain_seconds``: how long jobs may take to return to the queue.
_GIVE_BACK_SECONDS = 5.0


class Capacity:
    """How many jobs of a model to run at the same time: as many as the predictor has lanes.

    A guided picture takes two lanes, so that half of the jobs fill a batch, and the others wait in
    the predictor for the next one. Until the predictor accepts a job, one job wakes it up. Its
    metrics are read only while it works: reading them through Knative would wake it up too.
    """

    def __init__(self, client: PredictorClient, model: str, most: int) -> None:
        self._client = client
        self._model = model
        self._most = most
        self._due = 0.0
        self.value = 1

    def limit(self, accepted: int) -> None:
        """Take no more jobs for now: the predictor has refused one, and works on ``accepted``.

        One of several replicas may be full while the others have room, so the finished jobs are
        still replaced. A predictor that works on none may not be running.
        """
        self.value = max(1, accepted)
        self._due = time.monotonic() + _CAPACITY_SECONDS if accepted else 0.0

    async def refresh(self) -> None:
        """Read the metrics, if the last reading is old."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _CAPACITY_SECONDS
        lanes = await self._client.lanes(self._model)
        if lanes is not None:
            self.value = max(1, min(lanes, self._most))


class Puller:
    """Runs the jobs of one model."""

    def __init__(
        self,
        model: str,
        storage: Storage,
        client: PredictorClient,
        settings: Settings,
        bucket: Bucket | None,
    ) -> None:
        self._model = model
        self._storage = storage
        self._client = client
        self._settings = settings
        self._bucket = bucket
        self._capacity = Capacity(client, model, settings.max_concurrency)
        self._attempts: dict[asyncio.Task[None], Attempt] = {}
        self._refreshes: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Claim and run jobs until ``stop``."""
        with self._storage.changes.watch(f"queue:{self._model}") as wake:
            self._wake = wake
            while not self._is_stopping:
                wake.clear()
                seconds = _POLL_SECONDS
                try:
                    await self._claim_jobs()
                except StorageUnavailableError:
                    seconds = _SWEEP_SECONDS
                await wait_briefly(wake, seconds)

    def stop(self) -> None:
        """Claim no further jobs."""
        self._is_stopping = True
        self._wake.set()

    def withdraw(self) -> None:
        """Return the running jobs to the queue."""
        for attempt in self._attempts.values():
            attempt.withdraw()

    async def drain(self, seconds: float) -> None:
        """Wait for the running jobs, then return the rest to the queue."""
        running = list(self._attempts)
        if running:
            await asyncio.wait(running, timeout=seconds)
        self.withdraw()
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=_GIVE_BACK_SECONDS)
        # If the storage does not answer, the leases end by themselves.
        late = [*self._attempts, *self._refreshes]
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _claim_jobs(self) -> None:
        while not self._is_stopping and len(self._attempts) < self._capacity.value:
            claim = await self._storage.claim(self._model, self._settings.lease_seconds)
            if claim is None:
                return
            attempt = Attempt(
                claim,
                self._storage,
                self._client,
                self._settings.lease_seconds,
                bucket=self._bucket,
                on_accepted=self._on_accepted,
                on_refused=self._on_refused,
            )
            task = asyncio.create_task(attempt.run())
            self._attempts[task] = attempt
            task.add_done_callback(self._on_done)

    def _on_accepted(self) -> None:
        for attempt in self._attempts.values():
            attempt.call_again()
        task = asyncio.create_task(self._refresh())
        self._refreshes.add(task)
        task.add_done_callback(self._refreshes.discard)

    def _on_refused(self) -> None:
        self._capacity.limit(sum(one.is_accepted for one in self._attempts.values()))

    async def _refresh(self) -> None:
        await self._capacity.refresh()
        self._wake.set()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        del self._attempts[task]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()):
            logger.error("a try has ended: internal error (a bug)", exc_info=error)


class Worker:
    """A puller for each model, and the sweep of the storage."""

    def __init__(
        self,
        storage: Storage,
        client: PredictorClient,
        settings: Settings,
        on_crash: Callable[[], None],
        bucket: Bucket | None = None,
    ) -> None:
        """``on_crash`` is called if a task of the worker ends by a bug."""
        self._storage = storage
        self._on_crash = on_crash
        self._drain_seconds = settings.drain_seconds
        self._pullers = [
            Puller(model, storage, client, settings, bucket) for model in settings.model_names
        ]
        self._uploads = ExpiredUploads(storage, bucket)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to run jobs on the event loop."""
        self._tasks = [asyncio.create_task(puller.run()) for puller in self._pullers]
        self._tasks.append(asyncio.create_task(self._sweep()))
        self._tasks.append(asyncio.create_task(self._uploads.run()))
        for task in self._tasks:
            task.add_done_callback(self._report)

    def stop(self) -> None:
        """Claim no further jobs."""
        for puller in self._pullers:
            puller.stop()

    def withdraw(self) -> None:
        """Return the running jobs to the queue."""
        for puller in self._pullers:
            puller.withdraw()

    async def drain(self) -> None:
        """Stop, wait for the running jobs, and return the rest to the queue."""
        self.stop()
        *pulling, sweep, uploads = self._tasks
        await asyncio.gather(*pulling, return_exceptions=True)
        await asyncio.gather(*(puller.drain(self._drain_seconds) for puller in self._pullers))
        for task in (sweep, uploads):
            task.cancel()
        await asyncio.gather(sweep, uploads, return_exceptions=True)

    def _report(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            logger.critical("the worker has stopped: internal error (a bug)", exc_info=error)
            self._on_crash()

    async def _sweep(self) -> None:
        while True:
            try:
                await self._storage.sweep()
            except StorageUnavailableError:
                logger.warning("the storage does not answer")
            await asyncio.sleep(_SWEEP_SECONDS)
