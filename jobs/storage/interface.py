"""The interface of a storage. Each method is one atomic change, even if its caller dies.

A job is delivered at least once and ends once. A claim is a lease with a token: a worker that has
lost its lease can neither renew nor finish the job.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.errors import KeyLimitError
from jobs.job import Claim, Delivery, Job, NewJob, Picture, Status, WebhookOutcome
from jobs.storage.changes import Changes

# How much of the newest duration goes into ``Job.model_seconds``.
NEWEST_SHARE = 0.2
# The most jobs that one ``sweep`` moves, so that it blocks others for a moment only.
SWEEP_SIZE = 100
# Sweeps are a second apart. After a longer pause, workers need time to renew their leases.
OUTAGE_SECONDS = 3.0
GRACE_SECONDS = 10.0
# The answer to a job with a webhook if too many webhooks wait; receivers that fail are retried for
# a day, so room appears slowly.
WEBHOOKS_FULL = "the webhooks that wait leave no room (max_webhook_queue)"
WEBHOOKS_RETRY_SECONDS = 60.0


@dataclass(frozen=True)
class Bounds:
    """What the storage holds at most, and how often a job may start; see the settings.

    The last three apply to each owner; 0 is unlimited.
    """

    queue_length: int
    queue_bytes: int
    stored_bytes: int
    tries: int
    webhooks: int = 100_000
    key_jobs_per_minute: float = 0.0
    key_queued_jobs: int = 0
    key_webhooks: int = 0

    @property
    def key_job_seconds(self) -> float:
        """What one job takes of the minute of its owner; 0 if that is unlimited."""
        return 60 / self.key_jobs_per_minute if self.key_jobs_per_minute else 0.0


@dataclass(frozen=True)
class Submission:
    """The job of a submission; ``is_new`` is False if the idempotency key names an earlier one."""

    job: Job
    is_new: bool


@dataclass(frozen=True)
class ModelState:
    """The jobs of a model: how many wait and run, and the age of the oldest that waits.

    ``ended`` counts all jobs that have ever ended, by status.
    """

    queued: int
    running: int
    oldest_seconds: float
    ended: Mapping[Status, int]


@dataclass(frozen=True)
class WebhookState:
    """The webhooks of all jobs: how many wait, and the age of the oldest.

    ``ended`` counts all webhooks that have ever ended, by outcome, and ``failures`` the tries that
    failed.
    """

    waiting: int
    oldest_seconds: float
    ended: Mapping[WebhookOutcome, int]
    failures: int


class Storage(ABC):
    """Jobs and pictures. Every method but ``open`` raises StorageUnavailableError without one.

    ``changes`` wakes up who waits for ``job:<id>`` (its record has changed), ``preview:<id>``,
    ``queue:<model>`` (a job of the model may be claimed), ``stop:<id>`` (a claim is void) and
    ``outbox`` (a webhook may be sent).

    The change of a job also records its webhook, in the same transaction: ``started`` when the
    predictor accepts the job for the first time, ``progress``, and ``completed`` when the job ends.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.changes = Changes()

    @abstractmethod
    async def open(self) -> None:
        """Begin to follow changes; the storage need not answer yet.

        Raises:
            StartError: it never will.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release connections and tasks."""

    @abstractmethod
    async def check(self) -> None:
        """Return if the storage answers."""

    @abstractmethod
    async def submit(self, new: NewJob) -> Submission:
        """Append a job to the queue of its model, unless its idempotency key is known.

        Raises:
            IdempotencyConflictError: the owner has used the key with another digest.
            QueueFullError: the queue has no place.
            KeyLimitError: the owner has reached a limit.
        """

    @abstractmethod
    async def read(self, job_id: str) -> Job | None:
        """The record of a job, or None if there is none."""

    @abstractmethod
    async def page(
        self, status: Status | None, before: int | None, count: int, owner: str = ""
    ) -> Sequence[Job]:
        """Up to ``count`` jobs, the newest first: those whose ``sequence`` is below ``before``.

        Those of one ``owner``, or all if it is empty.
        """

    @abstractmethod
    async def claim(self, model: str, lease_seconds: float) -> Claim | None:
        """Take the first job of a model for ``lease_seconds``, the highest priority first.

        None if the queue is empty, or if a last try runs or has to run alone.
        """

    @abstractmethod
    async def renew(self, claim: Claim, lease_seconds: float, step: int, steps: int) -> bool:
        """Extend the lease and record progress; False if the claim is void.

        ``steps`` above 0 means that the predictor has accepted the job.
        """

    @abstractmethod
    async def note_preview(self, claim: Claim, event: bytes) -> bool:
        """Keep the data of the newest preview event while the claim lasts; False if it is void."""

    @abstractmethod
    async def preview(self, job_id: str) -> bytes | None:
        """The data of the newest preview event of a running job, or None if there is none."""

    @abstractmethod
    async def give_back(self, claim: Claim, reason: str | None) -> bool:
        """Return the job to its place in the queue; False if the claim is void.

        With a ``reason`` the try counts, and the job fails with it after the last one.
        """

    @abstractmethod
    async def finish(self, claim: Claim, pictures: Sequence[Picture], steps: int = 0) -> bool:
        """End the job as ``succeeded`` and keep its pictures; False if the claim is void.

        All ``steps`` are done: a short job ends before its progress is recorded. The oldest
        pictures of other jobs are removed if there is no room.
        """

    @abstractmethod
    async def fail(self, claim: Claim, reason: str) -> bool:
        """End the job as ``failed``; False if the claim is void."""

    @abstractmethod
    async def cancel(self, job_id: str) -> Job | None:
        """End the job as ``cancelled`` unless it has ended; None if there is no job."""

    @abstractmethod
    async def picture(self, job_id: str, number: int) -> bytes | None:
        """The bytes of a picture, or None if they are not stored."""

    @abstractmethod
    async def state(self, model: str) -> ModelState:
        """The current load, for metrics."""

    @abstractmethod
    async def sweep(self) -> None:
        """Return jobs without a lease to the queue, end late jobs, and delete old records.

        A lost try counts if the predictor had accepted the job. The record of a job with pictures
        in a bucket is kept until ``release_uploads``.
        """

    @abstractmethod
    async def expired_uploads(self) -> Sequence[Job]:
        """Up to ``SWEEP_SIZE`` old records with pictures in a bucket, the oldest first."""

    @abstractmethod
    async def release_uploads(self, job_ids: Sequence[str]) -> None:
        """Let ``sweep`` delete these records: their pictures are no longer in the bucket."""

    @abstractmethod
    async def claim_delivery(self, lease_seconds: float) -> Delivery | None:
        """Take the webhook that is due and has waited longest, and its lane, for a time.

        None if none is due in a free lane. When the lease ends, it is due again.
        """

    @abstractmethod
    async def end_delivery(self, delivery: Delivery, outcome: WebhookOutcome) -> bool:
        """Remove a webhook and free its lane; False if the lease has ended."""

    @abstractmethod
    async def retry_delivery(
        self, delivery: Delivery, seconds: float, *, is_failure: bool = True
    ) -> bool:
        """Keep a webhook for a later try and free its lane; False if the lease has ended."""

    @abstractmethod
    async def webhook_state(self) -> WebhookState:
        """The current load, for metrics."""


def queued_limit(waiting: int, seconds: float) -> KeyLimitError:
    """The error of an owner with ``key_queued_jobs`` waiting jobs; retry after ``seconds``."""
    return KeyLimitError(f"{waiting} jobs of this key wait (key_queued_jobs)", seconds)


def webhook_limit(waiting: int) -> KeyLimitError:
    """The error of an owner with ``key_webhooks`` webhooks that wait."""
    reason = f"{waiting} webhooks of this key wait (key_webhooks)"
    return KeyLimitError(reason, WEBHOOKS_RETRY_SECONDS)


def rate_limit(bounds: Bounds, seconds: float) -> KeyLimitError:
    """The error of an owner that submits too fast; retry after ``seconds``."""
    most = f"{bounds.key_jobs_per_minute:g} jobs a minute (key_jobs_per_minute)"
    return KeyLimitError(f"the limit of this key is {most}", seconds)
