"""The pictures of a job on their way into the bucket, and out of it when the record is old."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jobs.errors import BucketError, BucketRefusedError, StorageUnavailableError
from jobs.job import Job, Picture
from jobs.storage import Storage

if TYPE_CHECKING:
    from jobs.bucket import Bucket

logger = logging.getLogger(__name__)

# The waits between calls of a bucket that does not answer: doubled, then constant.
_FIRST_WAIT_SECONDS = 0.25
_LONGEST_WAIT_SECONDS = 10.0
_DISCARD_SECONDS = 5.0
_SWEEP_SECONDS = 1.0
# How long the bucket may refuse to delete the pictures of an old record. Then they remain.
_DELETE_SECONDS = 86_400.0


class Upload:
    """The pictures of one try of a job.

    Each try has its own objects, because another one may make slightly different pictures: sums
    over batches of different sizes round differently. So a worker that has lost its lease can
    neither replace nor delete a picture of the record.
    """

    def __init__(self, bucket: Bucket, job_id: str) -> None:
        self._bucket = bucket
        self._job_id = job_id
        self._suffix = secrets.token_hex(4)
        self._locations: set[str] = set()
        self._calls: set[asyncio.Future[None]] = set()

    async def run(self, pictures: Sequence[Picture]) -> list[Picture]:
        """Upload them, however long the bucket does not answer; returns them without bytes."""
        calls = (self._put(number, picture) for number, picture in enumerate(pictures))
        return list(await asyncio.gather(*calls))

    async def discard(self, job: Job | None) -> None:
        """Delete the objects that the record does not name, if the bucket answers soon."""
        recorded = {picture.location for picture in job.pictures} if job else set()
        obsolete = self._locations - recorded
        if not obsolete:
            return
        try:
            async with asyncio.timeout(_DISCARD_SECONDS):
                if self._calls:
                    await asyncio.wait(self._calls)
                await asyncio.gather(*map(self._bucket.delete, obsolete))
        except (BucketError, TimeoutError):
            logger.warning("job %s: pictures of this try may remain in the bucket", self._job_id)

    async def _put(self, number: int, picture: Picture) -> Picture:
        if not picture.content:
            return picture
        name = f"{number}-{self._suffix}.{picture.media_type.rpartition('/')[2]}"
        location = self._bucket.location(self._job_id, name)
        self._locations.add(location)
        record = replace(await asyncio.to_thread(picture.stored), location=location)
        wait = _FIRST_WAIT_SECONDS
        while True:
            call = self._bucket.put(location, picture.content, record.media_type, record.digest)
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            try:
                await asyncio.shield(call)
            except BucketError as error:
                level = logging.ERROR if isinstance(error, BucketRefusedError) else logging.WARNING
                logger.log(level, "job %s: a picture is not uploaded: %s", self._job_id, error)
            else:
                return replace(picture, content=b"", uploaded=record)
            await asyncio.sleep(wait * random.uniform(0.5, 1))  # noqa: S311
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)


class ExpiredUploads:
    """Deletes the objects of old records from the bucket, then lets the storage delete these.

    A process that dies in between leaves a record, whose objects are deleted again.
    """

    def __init__(self, storage: Storage, bucket: Bucket | None) -> None:
        """Without a bucket, the objects of an earlier one remain."""
        self._storage = storage
        self._bucket = bucket

    async def run(self) -> None:
        """Delete until cancelled."""
        wait = _SWEEP_SECONDS
        while True:
            try:
                is_done = await self.delete_some()
            except StorageUnavailableError:
                is_done = False
            wait = _SWEEP_SECONDS if is_done else min(2 * wait, _LONGEST_WAIT_SECONDS)
            await asyncio.sleep(wait)

    async def delete_some(self) -> bool:
        """Delete the objects of the oldest records; False if the bucket keeps some."""
        jobs = await self._storage.expired_uploads()
        if not jobs:
            return True
        deleted = await asyncio.gather(*map(self._is_deleted, jobs))
        released = [job.id for job, is_deleted in zip(jobs, deleted, strict=True) if is_deleted]
        if released:
            await self._storage.release_uploads(released)
        return len(released) == len(jobs)

    async def _is_deleted(self, job: Job) -> bool:
        """Whether the record may be deleted."""
        try:
            for picture in job.pictures:
                if picture.location and self._bucket:
                    await self._bucket.delete(picture.location)
        except BucketError as error:
            logger.warning("job %s: its pictures are not deleted: %s", job.id, error)
            return job.read_at > job.expires_at + _DELETE_SECONDS
        return True
