"""One try of one job: call the predictor, keep the lease, and store how it ended."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from jobs.call_errors import CallFailedError, CallRefusedError, CallRejectedError
from jobs.errors import StorageUnavailableError
from jobs.job import Claim, Picture
from jobs.predictor_client import PredictorClient
from jobs.storage import Storage
from jobs.storage.changes import wait_briefly
from jobs.upload import Upload

if TYPE_CHECKING:
    from jobs.bucket import Bucket

logger = logging.getLogger(__name__)

# The waits between calls of a predictor that is not running: doubled, then constant.
_FIRST_WAIT_SECONDS = 0.25
_LONGEST_WAIT_SECONDS = 10.0
# Between a failed try and the next. A predictor that has been killed accepts connections for a
# moment longer, which would cost further tries.
_PAUSE_SECONDS = 1.0
# The longest wait that a predictor can demand, as in its own responses.
_LONGEST_RETRY_SECONDS = 300.0
# Progress is stored at most this often.
_PROGRESS_SECONDS = 0.1


class Attempt:
    """A claimed job that runs; ``is_accepted`` while the predictor works on it.

    ``on_accepted`` is called when the predictor takes the job, ``on_refused`` when it does not.
    """

    def __init__(
        self,
        claim: Claim,
        storage: Storage,
        client: PredictorClient,
        lease_seconds: float,
        *,
        bucket: Bucket | None = None,
        on_accepted: Callable[[], None],
        on_refused: Callable[[], None],
    ) -> None:
        self._claim = claim
        self._storage = storage
        self._client = client
        self._lease_seconds = lease_seconds
        self._upload = Upload(bucket, claim.job.id) if bucket else None
        self._on_accepted = on_accepted
        self._on_refused = on_refused
        self.is_accepted = False
        self._progress = (0, 0)
        self._preview = b""
        self._has_news = asyncio.Event()
        self._may_call = asyncio.Event()
        self._call: asyncio.Task[list[Picture]] | None = None

    def withdraw(self) -> None:
        """Stop, and return the job to the queue; the try does not count."""
        if self._call:
            self._call.cancel()

    def call_again(self) -> None:
        """Do not wait longer for a predictor that was not running: it has taken another job."""
        self._may_call.set()

    async def run(self) -> None:
        """Run the job until it has ended, or another worker may have it."""
        self._call = asyncio.create_task(self._result())
        lease = asyncio.create_task(self._keep_lease())
        try:
            await asyncio.wait({self._call, lease}, return_when=asyncio.FIRST_COMPLETED)
            if self._call.done():
                await self._store(self._outcome(self._call))
            else:
                logger.info("job %s: cancelled, expired, or run elsewhere", self._claim.job.id)
        finally:
            self._call.cancel()
            lease.cancel()
            await asyncio.gather(self._call, lease, return_exceptions=True)
            if self._upload:
                await self._discard(self._upload)

    async def _result(self) -> list[Picture]:
        """The pictures, without their bytes if those are in the bucket."""
        pictures = await self._pictures()
        return await self._upload.run(pictures) if self._upload else pictures

    async def _discard(self, upload: Upload) -> None:
        """Delete what the record does not name: the job was cancelled, or ended elsewhere."""
        try:
            job = await self._storage.read(self._claim.job.id)
        except StorageUnavailableError:
            return
        await upload.discard(job)

    async def _pictures(self) -> list[Picture]:
        """Call until the predictor takes the job; the lease is kept meanwhile.

        Raises:
            CallError: the call has ended, or the predictor has stopped a job that had begun.
        """
        job = self._claim.job
        wait = _FIRST_WAIT_SECONDS
        while True:
            self._may_call.clear()
            try:
                return await self._client.predict(
                    job.model, self._claim.body, job.id, self._note_progress, self._note_preview
                )
            except CallRefusedError as refusal:
                level = logging.INFO if wait == _FIRST_WAIT_SECONDS else logging.DEBUG
                logger.log(level, "job %s waits: %s", job.id, refusal)
                has_begun, self.is_accepted = self.is_accepted, False
                self._on_refused()
                if seconds := refusal.retry_after_seconds:
                    await asyncio.sleep(min(seconds, _LONGEST_RETRY_SECONDS))
                else:
                    # Replicas must not return together.
                    await wait_briefly(self._may_call, wait * random.uniform(0.5, 1))  # noqa: S311
                    wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
                if has_begun:
                    # Its record would say `in_progress` until another predictor takes it.
                    raise
            except CallFailedError:
                await asyncio.sleep(_PAUSE_SECONDS)
                raise

    def _note_progress(self, step: int, steps: int) -> None:
        if not self.is_accepted:
            self.is_accepted = True
            self._on_accepted()
        self._progress = (step, steps)
        self._has_news.set()

    def _note_preview(self, event: bytes) -> None:
        self._preview = event
        self._has_news.set()

    async def _keep_lease(self) -> None:
        """Renew the lease and store progress and previews; returns once the claim is void."""
        with self._storage.changes.watch(f"stop:{self._claim.job.id}") as stopped:
            # Either event wakes the loop.
            self._has_news = stopped
            while True:
                stopped.clear()
                try:
                    if not await self._storage.renew(
                        self._claim, self._lease_seconds, *self._progress
                    ):
                        return
                    if self._preview:
                        event, self._preview = self._preview, b""
                        await self._storage.note_preview(self._claim, event)
                except StorageUnavailableError:
                    logger.warning("job %s: the lease is not renewed", self._claim.job.id)
                await asyncio.sleep(_PROGRESS_SECONDS)
                await wait_briefly(stopped, self._lease_seconds / 3)

    def _outcome(self, call: asyncio.Task[list[Picture]]) -> Callable[[], Awaitable[bool]]:
        """What to store about the end of the call."""
        storage, claim, job_id = self._storage, self._claim, self._claim.job.id
        if call.cancelled():
            return partial(storage.give_back, claim, None)
        match call.exception():
            case None:
                return partial(storage.finish, claim, call.result(), self._progress[1])
            case CallRefusedError():
                return partial(storage.give_back, claim, None)
            case CallRejectedError() as error:
                return partial(storage.fail, claim, str(error))
            case CallFailedError() as error:
                logger.warning("job %s: try %d failed: %s", job_id, claim.job.tries, error)
                return partial(storage.give_back, claim, str(error))
            case error:
                logger.error("job %s: internal error (a bug)", job_id, exc_info=error)
                return partial(storage.give_back, claim, "internal error of the worker")

    async def _store(self, end: Callable[[], Awaitable[bool]]) -> None:
        """Store the end, however long the storage does not answer."""
        wait = _FIRST_WAIT_SECONDS
        while True:
            try:
                if not await end():
                    logger.info("job %s: ended elsewhere", self._claim.job.id)
            except StorageUnavailableError:
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
            else:
                return
