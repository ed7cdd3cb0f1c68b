"""Jobs in one SQLite file, for one machine.

All calls run in order on one thread with one connection. Those that arrive meanwhile share the next
transaction, because a switch of threads and a commit cost more than a change. With WAL and
``synchronous=NORMAL``, a crash of the process loses nothing; a power failure can lose the last
commits (https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from jobs.errors import StartError, StorageUnavailableError
from jobs.job import Claim, Delivery, Job, NewJob, Picture, Status, WebhookOutcome
from jobs.storage import sqlite_outbox, sqlite_places, sqlite_uploads
from jobs.storage.batches import Batches
from jobs.storage.interface import (
    OUTAGE_SECONDS,
    Bounds,
    ModelState,
    Storage,
    Submission,
    WebhookState,
)
from jobs.storage.sqlite_tables import SCHEMA, find_job, model_state
from jobs.storage.sqlite_transaction import Transaction

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Query = Callable[[sqlite3.Connection], Any]
Change = Callable[[Transaction], Any]

# A value is too large, or violates a constraint: the other changes of a batch do not.
_ERRORS_OF_VALUES = (sqlite3.DataError, sqlite3.IntegrityError)
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
        self._queries = Batches[Query](self._run_queries)
        self._changes = Batches[Change](self._run_changes)
        self._follower: asyncio.Task[None] | None = None
        self._swept_at = math.inf

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
        return await self._write(lambda transaction: transaction.submit(new))

    async def read(self, job_id: str) -> Job | None:
        return await self._read(lambda db: find_job(db, job_id))

    async def page(
        self, status: Status | None, before: int | None, count: int, owner: str = ""
    ) -> Sequence[Job]:
        where = "(?1 IS NULL OR status = ?1) AND (?2 IS NULL OR sequence < ?2)"
        where += " AND (?4 = '' OR owner = ?4)"
        query = f"SELECT id FROM jobs WHERE {where} ORDER BY sequence DESC LIMIT ?3"  # noqa: S608

        def found(db: sqlite3.Connection) -> list[Job]:
            rows = db.execute(query, (status, before, count, owner)).fetchall()
            return [job for row in rows if (job := find_job(db, row["id"]))]

        return await self._read(found)

    async def claim(self, model: str, lease_seconds: float) -> Claim | None:
        return await self._write(lambda transaction: transaction.claim(model, lease_seconds))

    async def renew(self, claim: Claim, lease_seconds: float, step: int, steps: int) -> bool:
        return await self._write(
            lambda transaction: transaction.renew(claim, lease_seconds, step, steps)
        )

    async def note_preview(self, claim: Claim, event: bytes) -> bool:
        return await self._write(lambda transaction: transaction.note_preview(claim, event))

    async def preview(self, job_id: str) -> bytes | None:
        query = "SELECT event FROM previews WHERE job = ?"
        row = await self._read(lambda db: db.execute(query, (job_id,)).fetchone())
        return row["event"] if row else None

    async def give_back(self, claim: Claim, reason: str | None) -> bool:
        return await self._write(lambda transaction: transaction.give_back(claim, reason))

    async def finish(self, claim: Claim, pictures: Sequence[Picture], steps: int = 0) -> bool:
        return await self._write(lambda transaction: transaction.finish(claim, pictures, steps))

    async def fail(self, claim: Claim, reason: str) -> bool:
        return await self._write(lambda transaction: transaction.fail(claim, reason))

    async def cancel(self, job_id: str) -> Job | None:
        return await self._write(lambda transaction: transaction.cancel(job_id))

    async def picture(self, job_id: str, number: int) -> bytes | None:
        query = "SELECT content FROM pictures WHERE job = ? AND number = ?"
        row = await self._read(lambda db: db.execute(query, (job_id, number)).fetchone())
        return row["content"] if row else None

    async def state(self, model: str) -> ModelState:
        return await self._read(lambda db: model_state(db, model))

    async def sweep(self) -> None:
        now = time.time()
        # Without sweeps, this machine was suspended, or its clock was set.
        is_outage = now - self._swept_at > OUTAGE_SECONDS
        await self._write(lambda transaction: transaction.sweep(after_outage=is_outage))
        self._swept_at = now

    async def expired_uploads(self) -> Sequence[Job]:
        return await self._read(sqlite_uploads.expired_uploads)

    async def release_uploads(self, job_ids: Sequence[str]) -> None:
        await self._write(lambda transaction: transaction.release_uploads(job_ids))

    async def claim_delivery(self, lease_seconds: float) -> Delivery | None:
        return await self._write(lambda transaction: transaction.claim_delivery(lease_seconds))

    async def end_delivery(self, delivery: Delivery, outcome: WebhookOutcome) -> bool:
        return await self._write(lambda transaction: transaction.end_delivery(delivery, outcome))

    async def retry_delivery(
        self, delivery: Delivery, seconds: float, *, is_failure: bool = True
    ) -> bool:
        return await self._write(
            lambda transaction: transaction.retry_delivery(delivery, seconds, is_failure=is_failure)
        )

    async def webhook_state(self) -> WebhookState:
        return await self._read(sqlite_outbox.webhook_state)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        schemas = (SCHEMA, sqlite_places.SCHEMA, sqlite_outbox.SCHEMA, sqlite_uploads.SCHEMA)
        # In one transaction, because other processes may use the file.
        connection.executescript("".join(["BEGIN IMMEDIATE;", *schemas, "COMMIT;"]))
        return connection

    async def _read(self, query: Callable[[sqlite3.Connection], Result]) -> Result:
        try:
            return cast("Result", await self._queries.call(query))
        except sqlite3.Error as error:
            raise _unavailable(error) from None

    async def _write(self, change: Callable[[Transaction], Result]) -> Result:
        try:
            return cast("Result", await self._changes.call(change))
        except sqlite3.Error as error:
            raise _unavailable(error) from None

    async def _run_queries(self, queries: Sequence[Query]) -> Sequence[Any]:
        loop = asyncio.get_running_loop()
        db = self._opened()
        return await loop.run_in_executor(
            self._thread, lambda: [_outcome(one, db) for one in queries]
        )

    async def _run_changes(self, changes: Sequence[Change]) -> Sequence[Any]:
        loop = asyncio.get_running_loop()
        outcomes, changed = await loop.run_in_executor(self._thread, self._commit, changes)
        for name in changed:
            self.changes.notify(name)
        return outcomes

    def _commit(self, changes: Sequence[Change]) -> tuple[list[Any], set[str]]:
        """Run the changes on the thread, each of them or nothing of it, in one transaction."""
        db = self._opened()
        changed: set[str] = set()
        db.execute("BEGIN IMMEDIATE")
        try:
            outcomes = [self._change(one, db, changed) for one in changes]
            db.execute("COMMIT")
        except BaseException:
            # A full disk has ended the transaction already.
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return outcomes, changed

    def _change(self, change: Change, db: sqlite3.Connection, changed: set[str]) -> Any:
        """The result of a change, or its error; one of the file ends the whole transaction."""
        transaction = Transaction(db, self.bounds)
        db.execute("SAVEPOINT change")
        outcome = _outcome(change, transaction)
        if isinstance(outcome, sqlite3.Error) and not isinstance(outcome, _ERRORS_OF_VALUES):
            raise outcome
        if isinstance(outcome, Exception):
            db.execute("ROLLBACK TO change")
        else:
            changed |= transaction.changed
        db.execute("RELEASE change")
        return outcome

    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    async def _follow(self) -> None:
        """Notice changes by other processes: https://www.sqlite.org/pragma.html#pragma_data_version."""
        seen = None
        while True:
            with suppress(StorageUnavailableError):
                row = await self._read(lambda db: db.execute("PRAGMA data_version").fetchone())
                if seen is not None and seen != row[0]:
                    self.changes.notify_all()
                seen = row[0]
            await asyncio.sleep(_POLL_SECONDS)


def _outcome(call: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return call(argument)
    except Exception as error:  # raised again for its caller
        return error


def _unavailable(error: sqlite3.Error) -> StorageUnavailableError:
    logger.warning("sqlite_path: a call failed: %s", error)
    return StorageUnavailableError(f"the storage of the jobs does not work now: {error}")
