"""What a job is: its states, its record, and a worker's claim on it.

    queued ──► starting ──► in_progress ──► succeeded
      ▲            │             │      └─► failed
      └────────────┴─────────────┘
      a worker gives the job back

``queued``, ``starting`` and ``in_progress`` can also end as ``failed``, ``cancelled`` or
``expired``. A final state never changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Status = Literal["queued", "starting", "in_progress", "succeeded", "failed", "cancelled", "expired"]
STATUSES: tuple[Status, ...] = get_args(Status)
# A worker has a lease on the job.
RUNNING = frozenset[Status]({"starting", "in_progress"})
FINAL = frozenset[Status]({"succeeded", "failed", "cancelled", "expired"})

LOWEST_PRIORITY, HIGHEST_PRIORITY, DEFAULT_PRIORITY = 0, 9, 5

EXPIRED = "the job did not finish within its expires_in"
WORKER_LOST = "the worker stopped during each try of the job"


WebhookEvent = Literal["started", "progress", "completed"]
# Progress is reported at most this often, in seconds.
WEBHOOK_PROGRESS_SECONDS = 0.5
# How a delivery ends: the receiver has it; the receiver responds with 410; it was tried for a day;
# a newer event of the job makes it obsolete.
WebhookOutcome = Literal["delivered", "gone", "abandoned", "superseded"]
WEBHOOK_OUTCOMES: tuple[WebhookOutcome, ...] = get_args(WebhookOutcome)


@dataclass(frozen=True)
class Webhook:
    """Who is notified about a job. Deliveries in the same ``lane`` are sent one after another."""

    url: str
    lane: str


@dataclass(frozen=True)
class NewJob:
    """A job to submit. ``body`` is the ``:predict`` body with its seeds; times are in seconds.

    ``digest`` identifies the body as the caller sent it, for ``idempotency_key``, which may be
    empty. ``owner`` is the name of the API key, empty if the server has no keys.
    """

    id: str
    model: str
    priority: int
    expires_in: float
    body: bytes
    seed: int | None
    idempotency_key: str
    digest: str
    owner: str = ""
    webhook: Webhook | None = None


@dataclass(frozen=True)
class StoredPicture:
    """A picture of a finished job without its bytes; a blocked picture has no media type.

    ``details`` is the rest of the prediction: the seed, the parameters and the warnings.
    ``location`` is the ``s3://`` URI of the bytes, empty if they are in the storage.
    """

    media_type: str
    size: int
    digest: str
    details: Mapping[str, Any]
    location: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture as the predictor has sent it; ``content`` is empty if it is blocked.

    A picture in a bucket has the record that describes it, and no ``content``.
    """

    media_type: str
    content: bytes
    details: Mapping[str, Any]
    uploaded: StoredPicture | None = None

    def stored(self) -> StoredPicture:
        """What the record of the job says about the picture."""
        if self.uploaded:
            return self.uploaded
        digest = hashlib.sha256(self.content).hexdigest()
        return StoredPicture(self.media_type, len(self.content), digest, self.details)


@dataclass(frozen=True)
class Job:
    """The record of a job; times are seconds since 1970 by the clock of the storage.

    A worker has claimed it at ``started_at``, and the predictor has accepted it at ``accepted_at``.
    ``position`` counts the jobs ahead of a queued one. ``model_running`` jobs of the model have a
    lease, and ``model_seconds`` is what a job of the model has taken lately, 0 if unknown.
    """

    id: str
    sequence: int
    model: str
    status: Status
    priority: int
    seed: int | None
    created_at: float
    expires_in: float
    expires_at: float
    tries: int
    read_at: float
    started_at: float | None = None
    accepted_at: float | None = None
    ended_at: float | None = None
    step: int = 0
    steps: int = 0
    error: str | None = None
    pictures: tuple[StoredPicture, ...] = ()
    has_lost_pictures: bool = False
    position: int | None = None
    model_running: int = 0
    model_seconds: float = 0.0
    owner: str = ""

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.status in FINAL

    @property
    def estimated_seconds(self) -> float | None:
        """How long the job still takes, from the measured rate; None if nothing is known yet."""
        if self.is_final:
            return None
        if self.status == "in_progress" and self.step and self.accepted_at:
            return (self.read_at - self.accepted_at) * (self.steps - self.step) / self.step
        if not self.model_seconds:
            return None
        ahead = self.position or 0
        rounds = ahead // max(1, self.model_running) + 1
        return self.model_seconds * rounds


@dataclass(frozen=True)
class Claim:
    """A worker's lease on a job. ``token`` proves it; another claim has another one."""

    job: Job
    token: str
    body: bytes


@dataclass(frozen=True)
class Delivery:
    """An event of a job that a process sends; ``job`` is the record at the time of the event.

    The ``id`` belongs to the event, so each try has the same. It has been created at
    ``job.read_at`` and failed ``tries`` times; ``age`` is in seconds. ``token`` proves the lease.
    """

    id: str
    event: WebhookEvent
    webhook: Webhook
    job: Job
    tries: int
    age: float
    token: str


def takes_last_try_alone(tries: int, max_tries: int) -> bool:
    """Whether the next try of a job that has started ``tries`` times runs without other jobs.

    A job that stops the predictor also stops the others in its batch. They fail with it only if
    they share its last try.
    """
    return tries > 0 and tries + 1 >= max_tries
