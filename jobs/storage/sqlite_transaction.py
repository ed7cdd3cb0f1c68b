"""The changes of the SQLite storage, each in one transaction; see ``Storage`` for what they do."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import asdict

from jobs.errors import IdempotencyConflictError
from jobs.job import (
    EXPIRED,
    WORKER_LOST,
    Claim,
    Delivery,
    Job,
    NewJob,
    Picture,
    Status,
    WebhookEvent,
    WebhookOutcome,
    takes_last_try_alone,
)
from jobs.storage import sqlite_outbox as outbox
from jobs.storage import sqlite_uploads as uploads
from jobs.storage.interface import GRACE_SECONDS, SWEEP_SIZE, Bounds, Submission
from jobs.storage.sqlite_admission import check_owner, check_room
from jobs.storage.sqlite_tables import (
    RUNNING,
    add_bytes,
    drop_pictures,
    existing_job,
    find_job,
    is_valid,
    note_outcome,
    note_seconds,
    total_bytes,
)


class Transaction:
    """One open transaction; ``changed`` has the names to notify after its commit."""

    def __init__(self, db: sqlite3.Connection, bounds: Bounds) -> None:
        self._db = db
        self._bounds = bounds
        self._now = time.time()
        self.changed: set[str] = set()

    def submit(self, new: NewJob) -> Submission:
        if new.idempotency_key:
            query = "SELECT id, digest FROM jobs WHERE owner = ? AND idempotency_key = ?"
            if row := self._db.execute(query, (new.owner, new.idempotency_key)).fetchone():
                if row["digest"] != new.digest:
                    raise IdempotencyConflictError("the Idempotency-Key was used with another body")
                return Submission(existing_job(self._db, row["id"]), is_new=False)
        check_room(self._db, self._bounds, new)
        if new.owner:
            check_owner(self._db, self._bounds, new, self._now)
        self._db.execute(
            "INSERT INTO jobs (id, model, status, priority, seed, created_at, expires_in, "
            "expires_at, idempotency_key, digest, owner) "
            "VALUES (?, ?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(new.id, new.model, new.priority, new.seed, self._now, new.expires_in),
                *(self._now + new.expires_in, new.idempotency_key or None, new.digest),
                new.owner,
            ),
        )
        if new.webhook:
            outbox.add_webhook(self._db, new.id, new.webhook)
        self._db.execute("INSERT INTO bodies VALUES (?, ?)", (new.id, new.body))
        add_bytes(self._db, "bodies", len(new.body))
        self.changed |= {f"job:{new.id}", f"queue:{new.model}"}
        return Submission(existing_job(self._db, new.id), is_new=True)

    def claim(self, model: str, lease_seconds: float) -> Claim | None:
        job = self._first_of(model)
        if job is None:
            return None
        alone = takes_last_try_alone(job.tries, self._bounds.tries)
        query = f"SELECT max(runs_alone) FROM jobs WHERE model = ? AND {RUNNING}"  # noqa: S608
        (other,) = self._db.execute(query, (model,)).fetchone()
        if other or (alone and other is not None):
            return None
        token = secrets.token_hex(16)
        self._db.execute(
            "UPDATE jobs SET status = 'starting', token = ?, tries = tries + 1, started_at = ?, "
            "lease_until = ?, runs_alone = ?, step = 0, steps = 0 WHERE id = ?",
            (token, self._now, self._now + lease_seconds, alone, job.id),
        )
        self.changed.add(f"job:{job.id}")
        query = "SELECT body FROM bodies WHERE job = ?"
        (body,) = self._db.execute(query, (job.id,)).fetchone()
        return Claim(existing_job(self._db, job.id), token, body)

    def renew(self, claim: Claim, lease_seconds: float, step: int, steps: int) -> bool:
        if not is_valid(self._db, claim):
            return False
        until = self._now + lease_seconds
        self._db.execute("UPDATE jobs SET lease_until = ? WHERE id = ?", (until, claim.job.id))
        if not steps:
            return True
        known = existing_job(self._db, claim.job.id)
        if (known.status, known.step, known.steps) == ("in_progress", step, steps):
            return True
        self._db.execute(
            "UPDATE jobs SET status = 'in_progress', step = ?, steps = ?, "
            "accepted_at = coalesce(accepted_at, ?) WHERE id = ?",
            (step, steps, self._now, known.id),
        )
        self.changed.add(f"job:{known.id}")
        self._report(known.id, "progress" if known.status == "in_progress" else "started")
        return True

    def note_preview(self, claim: Claim, event: bytes) -> bool:
        if not is_valid(self._db, claim):
            return False
        self._db.execute("INSERT OR REPLACE INTO previews VALUES (?, ?)", (claim.job.id, event))
        self.changed.add(f"preview:{claim.job.id}")
        return True

    def give_back(self, claim: Claim, reason: str | None) -> bool:
        if not is_valid(self._db, claim):
            return False
        job = existing_job(self._db, claim.job.id)
        if reason is None:
            self._requeue_uncounted(job)
        elif job.tries >= self._bounds.tries:
            self._end(job, "failed", reason)
        else:
            self._requeue(job)
        return True

    def finish(self, claim: Claim, pictures: Sequence[Picture], steps: int) -> bool:
        if not is_valid(self._db, claim):
            return False
        job = existing_job(self._db, claim.job.id)
        accepted_at = job.accepted_at or job.started_at or self._now
        if job.status == "starting":
            self._accept(job, accepted_at, steps)
        size = sum(len(picture.content) for picture in pictures)
        self._make_room(size)
        rows = [(job.id, number, picture.content) for number, picture in enumerate(pictures)]
        self._db.executemany("INSERT INTO pictures VALUES (?, ?, ?)", rows)
        add_bytes(self._db, "pictures", size)
        stored = json.dumps([asdict(picture.stored()) for picture in pictures])
        self._db.execute(
            "UPDATE jobs SET pictures = ?1, stored_bytes = ?2, step = ?3, steps = ?3, "
            "accepted_at = ?4 WHERE id = ?5",
            (stored, size, steps, accepted_at, job.id),
        )
        note_seconds(self._db, job.model, self._now - accepted_at)
        self._end(job, "succeeded")
        if any(picture.uploaded for picture in pictures):
            uploads.note_upload(self._db, job.id)
        return True

    def fail(self, claim: Claim, reason: str) -> bool:
        if not is_valid(self._db, claim):
            return False
        self._end(claim.job, "failed", reason)
        return True

    def cancel(self, job_id: str) -> Job | None:
        job = find_job(self._db, job_id)
        if job and not job.is_final:
            self._end(job, "cancelled")
        return find_job(self._db, job_id)

    def sweep(self, *, after_outage: bool) -> None:
        if after_outage:
            change = f"UPDATE jobs SET lease_until = ?1 WHERE {RUNNING} AND lease_until <= ?2"  # noqa: S608
            self._db.execute(change, (self._now + GRACE_SECONDS, self._now))
        query = f"SELECT id FROM jobs WHERE {RUNNING} AND lease_until <= ? LIMIT ?"  # noqa: S608
        for row in self._db.execute(query, (self._now, SWEEP_SIZE)).fetchall():
            job = existing_job(self._db, row["id"])
            if job.status == "starting":
                self._requeue_uncounted(job)
            elif job.tries >= self._bounds.tries:
                self._end(job, "failed", WORKER_LOST)
            else:
                self._requeue(job)
        where = f"expires_at <= ? AND {uploads.NOT_UPLOADED}"
        query = f"SELECT id FROM jobs WHERE {where} ORDER BY expires_at LIMIT ?"  # noqa: S608
        for row in self._db.execute(query, (self._now, SWEEP_SIZE)).fetchall():
            job = existing_job(self._db, row["id"])
            if job.is_final:
                drop_pictures(self._db, job.id)
                self._db.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
                self.changed.add(f"job:{job.id}")
            else:
                self._end(job, "expired", EXPIRED)

    def release_uploads(self, job_ids: Sequence[str]) -> None:
        uploads.release_uploads(self._db, job_ids)

    def claim_delivery(self, lease_seconds: float) -> Delivery | None:
        return outbox.claim_delivery(self._db, secrets.token_hex(16), lease_seconds, self._now)

    def end_delivery(self, delivery: Delivery, outcome: WebhookOutcome) -> bool:
        self.changed.add("outbox")
        return outbox.end_delivery(self._db, delivery, outcome, self._now)

    def retry_delivery(self, delivery: Delivery, seconds: float, *, is_failure: bool) -> bool:
        self.changed.add("outbox")
        due = self._now + seconds
        return outbox.retry_delivery(self._db, delivery, due, self._now, is_failure=is_failure)

    def _accept(self, job: Job, accepted_at: float, steps: int) -> None:
        """What a short job skips: it ends before its start is recorded."""
        self._db.execute(
            "UPDATE jobs SET status = 'in_progress', accepted_at = ?, steps = ? WHERE id = ?",
            (accepted_at, steps, job.id),
        )
        self._report(job.id, "started")

    def _report(self, job_id: str, event: WebhookEvent) -> None:
        if outbox.report(self._db, job_id, event, self._now):
            self.changed.add("outbox")

    def _first_of(self, model: str) -> Job | None:
        """The job of a model that runs next; late ones end here."""
        query = (
            "SELECT id FROM jobs WHERE status = 'queued' AND model = ? "
            "ORDER BY priority DESC, sequence LIMIT 1"
        )
        while row := self._db.execute(query, (model,)).fetchone():
            job = existing_job(self._db, row["id"])
            if job.expires_at > self._now:
                return job
            self._end(job, "expired", EXPIRED)
        return None

    def _requeue_uncounted(self, job: Job) -> None:
        self._db.execute("UPDATE jobs SET tries = tries - 1 WHERE id = ?", (job.id,))
        self._requeue(job)

    def _requeue(self, job: Job) -> None:
        self._db.execute(
            "UPDATE jobs SET status = 'queued', token = NULL, lease_until = NULL, runs_alone = 0, "
            "started_at = NULL, accepted_at = NULL, step = 0, steps = 0 WHERE id = ?",
            (job.id,),
        )
        self._void_claim(job)

    def _end(self, job: Job, status: Status, error: str | None = None) -> None:
        self._db.execute(
            "UPDATE jobs SET status = ?, error = ?, ended_at = ?, expires_at = ?, token = NULL, "
            "lease_until = NULL, runs_alone = 0 WHERE id = ?",
            (status, error, self._now, self._now + job.expires_in, job.id),
        )
        note_outcome(self._db, job.model, status)
        query = "DELETE FROM bodies WHERE job = ? RETURNING length(body)"
        for row in self._db.execute(query, (job.id,)).fetchall():
            add_bytes(self._db, "bodies", -row[0])
        self._void_claim(job)
        self._report(job.id, "completed")

    def _void_claim(self, job: Job) -> None:
        """What follows when a claim, if there is one, is void."""
        self._db.execute("DELETE FROM previews WHERE job = ?", (job.id,))
        self.changed |= {f"job:{job.id}", f"queue:{job.model}", f"stop:{job.id}"}

    def _make_room(self, size: int) -> None:
        """Remove the oldest pictures until ``size`` bytes fit."""
        query = "SELECT id FROM jobs WHERE stored_bytes > 0 ORDER BY ended_at, sequence LIMIT 1"
        while total_bytes(self._db, "pictures") + size > self._bounds.stored_bytes:
            row = self._db.execute(query).fetchone()
            if row is None:
                return
            drop_pictures(self._db, row["id"])
            lost = "UPDATE jobs SET has_lost_pictures = 1 WHERE id = ?"
            self._db.execute(lost, (row["id"],))
            self.changed.add(f"job:{row['id']}")
