"""Jobs in one SQLite file, for one machine.

All calls run in order on one thread with one connection. With WAL and ``synchronous=NORMAL``, a
crash of the process loses nothing; a power failure can lose the last commits
(https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from jobs.errors import (
    IdempotencyConflictError,
    QueueFullError,
    StartError,
    StorageUnavailableError,
)
from jobs.job import (
    EXPIRED,
    FINAL,
    WORKER_LOST,
    Claim,
    Job,
    NewJob,
    Picture,
    Status,
    takes_last_try_alone,
)
from jobs.storage.interface import SWEEP_SIZE, Bounds, Storage, Submission
from jobs.storage.sqlite_tables import (
    RUNNING,
    SCHEMA,
    add_bytes,
    drop_pictures,
    existing_job,
    find_job,
    is_valid,
    model_seconds,
    note_seconds,
    total_bytes,
)

Result = TypeVar("Result")

# How long a call waits for another process that writes.
_BUSY_SECONDS = 5.0
# How often to look for changes by other processes.
_POLL_SECONDS = 0.2


class SQLiteStorage(Storage):
    """See ``Storage``."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        super().__init__(bounds)
        self._path = path
        self._thread = ThreadPoolExecutor(1, "sqlite")
        self._connection: sqlite3.Connection | None = None
        self._follower: asyncio.Task[None] | None = None
        # What the current transaction changes; used on the thread.
        self._changed: set[str] = set()

    async def open(self) -> None:
        """Open or create the file."""
        loop = asyncio.get_running_loop()
        try:
            self._connection = await loop.run_in_executor(self._thread, self._connect)
        except sqlite3.Error as error:
            raise StartError(f"sqlite_path: cannot open {str(self._path)!r}: {error}") from None
        self._follower = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Close the file once the last call is done."""
        if self._follower:
            self._follower.cancel()
            with suppress(asyncio.CancelledError):
                await self._follower
        if self._connection:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    async def check(self) -> None:
        await self._read(lambda db: db.execute("SELECT 1 FROM totals").fetchone())

    async def submit(self, new: NewJob) -> Submission:
        return await self._write(lambda db: self._submit(db, new))

    async def read(self, job_id: str) -> Job | None:
        return await self._read(lambda db: find_job(db, job_id))

    async def page(self, status: Status | None, before: int | None, count: int) -> Sequence[Job]:
        where = "(?1 IS NULL OR status = ?1) AND (?2 IS NULL OR sequence < ?2)"
        query = f"SELECT id FROM jobs WHERE {where} ORDER BY sequence DESC LIMIT ?3"  # noqa: S608

        def found(db: sqlite3.Connection) -> list[Job]:
            ids = [row["id"] for row in db.execute(query, (status, before, count)).fetchall()]
            return [job for one in ids if (job := find_job(db, one))]

        return await self._read(found)

    async def claim(self, model: str, lease_seconds: float) -> Claim | None:
        return await self._write(lambda db: self._claim(db, model, lease_seconds))

    async def renew(self, claim: Claim, lease_seconds: float, step: int, steps: int) -> bool:
        def renewed(db: sqlite3.Connection) -> bool:
            if not is_valid(db, claim):
                return False
            until = time.time() + lease_seconds
            db.execute("UPDATE jobs SET lease_until = ? WHERE id = ?", (until, claim.job.id))
            if steps:
                changed = db.execute(
                    "UPDATE jobs SET status = 'in_progress', step = ?1, steps = ?2 "
                    "WHERE id = ?3 AND (status, step, steps) != ('in_progress', ?1, ?2)",
                    (step, steps, claim.job.id),
                ).rowcount
                self._changed |= {f"job:{claim.job.id}"} if changed else set()
            return True

        return await self._write(renewed)

    async def give_back(self, claim: Claim, reason: str | None) -> bool:
        def given_back(db: sqlite3.Connection) -> bool:
            job = find_job(db, claim.job.id)
            if job is None or not is_valid(db, claim):
                return False
            if reason is None:
                db.execute("UPDATE jobs SET tries = tries - 1 WHERE id = ?", (job.id,))
                self._requeue(db, job)
            elif job.tries >= self.bounds.tries:
                self._end(db, job, "failed", reason)
            else:
                self._requeue(db, job)
            return True

        return await self._write(given_back)

    async def finish(self, claim: Claim, pictures: Sequence[Picture]) -> bool:
        return await self._write(lambda db: self._finish(db, claim, pictures))

    async def fail(self, claim: Claim, reason: str) -> bool:
        def failed(db: sqlite3.Connection) -> bool:
            if not is_valid(db, claim):
                return False
            self._end(db, claim.job, "failed", reason)
            return True

        return await self._write(failed)

    async def cancel(self, job_id: str) -> Job | None:
        def cancelled(db: sqlite3.Connection) -> Job | None:
            job = find_job(db, job_id)
            if job and not job.is_final:
                self._end(db, job, "cancelled")
            return find_job(db, job_id)

        return await self._write(cancelled)

    async def picture(self, job_id: str, number: int) -> bytes | None:
        query = "SELECT content FROM pictures WHERE job = ? AND number = ?"
        row = await self._read(lambda db: db.execute(query, (job_id, number)).fetchone())
        return row["content"] if row else None

    async def sweep(self) -> None:
        await self._write(self._sweep)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(SCHEMA)
        return connection

    async def _read(self, query: Callable[[sqlite3.Connection], Result]) -> Result:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, query, self._opened())
        except sqlite3.Error as error:
            raise _unavailable(error) from None

    async def _write(self, change: Callable[[sqlite3.Connection], Result]) -> Result:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._transaction, change, loop)
        except sqlite3.Error as error:
            raise _unavailable(error) from None

    def _transaction(
        self, change: Callable[[sqlite3.Connection], Result], loop: asyncio.AbstractEventLoop
    ) -> Result:
        """Run ``change`` on the thread, all of it or nothing, then wake up who waits for it."""
        db = self._opened()
        self._changed = set()
        db.execute("BEGIN IMMEDIATE")
        try:
            result = change(db)
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        for name in self._changed:
            loop.call_soon_threadsafe(self.changes.notify, name)
        return result

    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    async def _follow(self) -> None:
        """Notice changes by other processes (https://www.sqlite.org/pragma.html#pragma_data_version)."""
        seen = None
        while True:
            with suppress(StorageUnavailableError):
                row = await self._read(lambda db: db.execute("PRAGMA data_version").fetchone())
                if seen is not None and seen != row[0]:
                    self.changes.notify_all()
                seen = row[0]
            await asyncio.sleep(_POLL_SECONDS)

    def _submit(self, db: sqlite3.Connection, new: NewJob) -> Submission:
        if new.idempotency_key:
            query = "SELECT id, digest FROM jobs WHERE idempotency_key = ?"
            if row := db.execute(query, (new.idempotency_key,)).fetchone():
                if row["digest"] != new.digest:
                    raise IdempotencyConflictError("the Idempotency-Key was used with another body")
                return Submission(existing_job(db, row["id"]), is_new=False)
        self._check_room(db, new)
        now = time.time()
        db.execute(
            "INSERT INTO jobs (id, model, status, priority, seed, created_at, expires_in, "
            "expires_at, idempotency_key, digest) VALUES (?, ?, 'queued', ?, ?, ?, ?, ?, ?, ?)",
            (
                *(new.id, new.model, new.priority, new.seed, now, new.expires_in),
                *(now + new.expires_in, new.idempotency_key or None, new.digest),
            ),
        )
        db.execute("INSERT INTO bodies VALUES (?, ?)", (new.id, new.body))
        add_bytes(db, "bodies", len(new.body))
        self._changed.add(f"queue:{new.model}")
        return Submission(existing_job(db, new.id), is_new=True)

    def _check_room(self, db: sqlite3.Connection, new: NewJob) -> None:
        (waiting,) = db.execute("SELECT count(*) FROM jobs WHERE status = 'queued'").fetchone()
        seconds = model_seconds(db, new.model) or 5.0
        if waiting >= self.bounds.queue_length:
            raise QueueFullError(f"{waiting} jobs wait, and the queue is full", seconds)
        if total_bytes(db, "bodies") + len(new.body) > self.bounds.queue_bytes:
            raise QueueFullError("the bodies of the waiting jobs leave no room", seconds)

    def _claim(self, db: sqlite3.Connection, model: str, lease_seconds: float) -> Claim | None:
        now = time.time()
        first = (
            "SELECT id FROM jobs WHERE status = 'queued' AND model = ? "
            "ORDER BY priority DESC, sequence LIMIT 1"
        )
        while True:
            row = db.execute(first, (model,)).fetchone()
            if row is None:
                return None
            job = existing_job(db, row["id"])
            if job.expires_at > now:
                break
            self._end(db, job, "expired", EXPIRED)
        alone = takes_last_try_alone(job.tries, self.bounds.tries)
        query = f"SELECT max(runs_alone) FROM jobs WHERE model = ? AND {RUNNING}"  # noqa: S608
        (other,) = db.execute(query, (model,)).fetchone()
        if other or (alone and other is not None):
            return None
        token = secrets.token_hex(16)
        db.execute(
            "UPDATE jobs SET status = 'starting', token = ?, tries = tries + 1, started_at = ?, "
            "lease_until = ?, runs_alone = ?, step = 0, steps = 0 WHERE id = ?",
            (token, now, now + lease_seconds, alone, job.id),
        )
        self._changed.add(f"job:{job.id}")
        (body,) = db.execute("SELECT body FROM bodies WHERE job = ?", (job.id,)).fetchone()
        return Claim(existing_job(db, job.id), token, body)

    def _requeue(self, db: sqlite3.Connection, job: Job) -> None:
        db.execute(
            "UPDATE jobs SET status = 'queued', token = NULL, lease_until = NULL, runs_alone = 0, "
            "started_at = NULL, step = 0, steps = 0 WHERE id = ?",
            (job.id,),
        )
        self._changed |= {f"job:{job.id}", f"queue:{job.model}", f"stop:{job.id}"}

    def _end(
        self, db: sqlite3.Connection, job: Job, status: Status, error: str | None = None
    ) -> None:
        now = time.time()
        db.execute(
            "UPDATE jobs SET status = ?, error = ?, ended_at = ?, expires_at = ?, token = NULL, "
            "lease_until = NULL, runs_alone = 0 WHERE id = ?",
            (status, error, now, now + job.expires_in, job.id),
        )
        query = "DELETE FROM bodies WHERE job = ? RETURNING length(body)"
        for row in db.execute(query, (job.id,)).fetchall():
            add_bytes(db, "bodies", -row[0])
        self._changed |= {f"job:{job.id}", f"queue:{job.model}", f"stop:{job.id}"}

    def _finish(self, db: sqlite3.Connection, claim: Claim, pictures: Sequence[Picture]) -> bool:
        job = find_job(db, claim.job.id)
        if job is None or not is_valid(db, claim):
            return False
        size = sum(len(picture.content) for picture in pictures)
        self._make_room(db, size)
        for number, picture in enumerate(pictures):
            db.execute("INSERT INTO pictures VALUES (?, ?, ?)", (job.id, number, picture.content))
        add_bytes(db, "pictures", size)
        stored = json.dumps([asdict(picture.stored()) for picture in pictures])
        db.execute(
            "UPDATE jobs SET pictures = ?, stored_bytes = ?, step = steps WHERE id = ?",
            (stored, size, job.id),
        )
        if job.started_at is not None:
            note_seconds(db, job.model, time.time() - job.started_at)
        self._end(db, job, "succeeded")
        return True

    def _make_room(self, db: sqlite3.Connection, size: int) -> None:
        while total_bytes(db, "pictures") + size > self.bounds.stored_bytes:
            row = db.execute(
                "SELECT id FROM jobs WHERE stored_bytes > 0 ORDER BY ended_at, sequence LIMIT 1"
            ).fetchone()
            if row is None:
                return
            drop_pictures(db, row["id"])
            db.execute("UPDATE jobs SET has_lost_pictures = 1 WHERE id = ?", (row["id"],))
            self._changed.add(f"job:{row['id']}")

    def _sweep(self, db: sqlite3.Connection) -> None:
        now = time.time()
        query = f"SELECT id FROM jobs WHERE {RUNNING} AND lease_until <= ? LIMIT ?"  # noqa: S608
        for row in db.execute(query, (now, SWEEP_SIZE)).fetchall():
            job = existing_job(db, row["id"])
            if job.tries >= self.bounds.tries:
                self._end(db, job, "failed", WORKER_LOST)
            else:
                self._requeue(db, job)
        query = "SELECT id FROM jobs WHERE expires_at <= ? ORDER BY expires_at LIMIT ?"
        for row in db.execute(query, (now, SWEEP_SIZE)).fetchall():
            job = existing_job(db, row["id"])
            if job.status in FINAL:
                drop_pictures(db, job.id)
                db.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
                self._changed.add(f"job:{job.id}")
            else:
                self._end(db, job, "expired", EXPIRED)


def _unavailable(error: sqlite3.Error) -> StorageUnavailableError:
    return StorageUnavailableError(f"the storage of the jobs does not work now: {error}")
