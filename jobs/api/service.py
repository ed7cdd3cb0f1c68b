"""What the routes share: submit a job, find one, and wait until it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from starlette.requests import ClientDisconnect, Request

from jobs.api.access import owner_of
from jobs.errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    JobNotFoundError,
    StorageUnavailableError,
)
from jobs.job import Job
from jobs.requests import new_job
from jobs.settings import Settings
from jobs.storage import Storage, Submission
from jobs.storage.changes import wait_briefly

# As in the predictor.
_BODY_SECONDS = 20.0
_BYTES_PER_SECOND = 4096
# A body of this length is parsed within a few milliseconds.
_SMALL_BYTES = 65_536
# Positions change without an event of the job itself.
_REFRESH_SECONDS = 2.0


class Service:
    """The storage with the settings; ``close`` ends all waits."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self.storage = storage
        self.settings = settings
        self._closing = asyncio.Event()

    @property
    def is_closing(self) -> bool:
        """Whether the process shuts down."""
        return self._closing.is_set()

    def close(self) -> None:
        """End all waits: the process shuts down."""
        self._closing.set()
        self.storage.changes.notify_all()

    async def submit(self, request: Request) -> Submission:
        """Read a request and append its job to the queue.

        Raises:
            JobsError: the request is not valid, or there is no room.
        """
        raw = await self._body(request)
        key = request.headers.get("idempotency-key")
        if len(raw) <= _SMALL_BYTES:
            new = new_job(raw, key, self.settings, owner_of(request))
        else:
            new = await asyncio.to_thread(new_job, raw, key, self.settings, owner_of(request))
        return await self.storage.submit(new)

    async def requested(self, request: Request) -> Job:
        """The job that the path names, if it belongs to the caller's key.

        Raises:
            JobNotFoundError: there is none, or it belongs to another key.
        """
        job_id, owner = request.path_params["id"], owner_of(request)
        job = await self.find(job_id)
        if owner and job.owner != owner:
            raise JobNotFoundError(job_id)
        return job

    async def find(self, job_id: str) -> Job:
        """The record of a job.

        Raises:
            JobNotFoundError: there is none.
        """
        job = await self.storage.read(job_id)
        if job is None:
            raise JobNotFoundError(job_id)
        return job

    async def wait_until_final(self, job: Job, seconds: float) -> Job:
        """The job once it has ended, or as it is after ``seconds``.

        If the storage stops answering, it is the job as last known, because the submission has
        succeeded.
        """
        try:
            async with asyncio.timeout(seconds):
                async for changed in self.follow(job.id):
                    assert isinstance(changed, Job)
                    job = changed
        except (TimeoutError, StorageUnavailableError):
            pass
        return job

    async def follow(
        self, job_id: str, *, with_previews: bool = False
    ) -> AsyncIterator[Job | bytes]:
        """The job now, and after each change, until it has ended or the process shuts down.

        ``with_previews`` also yields the data of preview events; it skips some if the caller is
        slow.

        Raises:
            JobNotFoundError: there is none, or it has expired meanwhile.
        """
        names = [f"job:{job_id}"] + ([f"preview:{job_id}"] if with_previews else [])
        with self.storage.changes.watch(*names) as changed:
            last: Job | None = None
            last_preview: bytes | None = None
            while True:
                changed.clear()
                job = await self.find(job_id)
                if last is None or replace(job, read_at=last.read_at) != last:
                    yield job
                last = job
                if with_previews and job.status == "in_progress":
                    preview = await self.storage.preview(job_id)
                    if preview and preview != last_preview:
                        yield preview
                    last_preview = preview
                if job.is_final or self.is_closing:
                    return
                await wait_briefly(changed, _REFRESH_SECONDS)

    async def _body(self, request: Request) -> bytes:
        most = self.settings.max_body_bytes
        too_large = BodyTooLargeError(f"the body is longer than {most} bytes (max_body_bytes)")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise too_large
        body = bytearray()
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(_BODY_SECONDS) as clock:
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > most:
                        raise too_large
                    allowed = _BODY_SECONDS + len(body) / _BYTES_PER_SECOND
                    clock.reschedule(started + allowed)
        except TimeoutError:
            raise BodyTooSlowError("the body did not arrive in time") from None
        except ClientDisconnect:
            raise BodyTooSlowError("the client left before the body was complete") from None
        return bytes(body)
