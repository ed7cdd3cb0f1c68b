"""Whether the SQLite storage has room for a job, and whether its owner may submit it."""

from __future__ import annotations

import sqlite3

from jobs.errors import QueueFullError
from jobs.job import NewJob
from jobs.storage import sqlite_outbox as outbox
from jobs.storage.interface import Bounds, queued_limit, rate_limit
from jobs.storage.sqlite_places import waiting_jobs
from jobs.storage.sqlite_tables import model_seconds, total_bytes

# The answer to a caller whose model has no measured rate yet.
_RETRY_SECONDS = 5.0
# The sum of a minute's parts is not exactly a minute.
_CLOCK_ERROR = 1e-3


def check_room(db: sqlite3.Connection, bounds: Bounds, new: NewJob) -> None:
    """Raise QueueFullError or KeyLimitError if the queue or the outbox has no room."""
    waiting = waiting_jobs(db)
    seconds = model_seconds(db, new.model) or _RETRY_SECONDS
    if waiting >= bounds.queue_length:
        raise QueueFullError(f"{waiting} jobs wait, and the queue is full", seconds)
    if total_bytes(db, "bodies") + len(new.body) > bounds.queue_bytes:
        raise QueueFullError("the bodies of the waiting jobs leave no room", seconds)
    if new.webhook:
        outbox.check_room(db, new.owner, bounds)


def check_owner(db: sqlite3.Connection, bounds: Bounds, new: NewJob, now: float) -> None:
    """Check the limits of the owner, and count the job towards its rate.

    Jobs fill a minute that empties steadily; ``until`` is when it will be empty.

    Raises:
        KeyLimitError: the owner has reached a limit.
    """
    query = "SELECT count(*) FROM jobs WHERE owner = ? AND status = 'queued'"
    (waiting,) = db.execute(query, (new.owner,)).fetchone()
    if bounds.key_queued_jobs and waiting >= bounds.key_queued_jobs:
        seconds = model_seconds(db, new.model) or _RETRY_SECONDS
        raise queued_limit(waiting, seconds)
    if not bounds.key_job_seconds:
        return
    row = db.execute("SELECT until FROM rates WHERE owner = ?", (new.owner,)).fetchone()
    full = now + max(60.0, bounds.key_job_seconds)
    known = row["until"] if row else now
    if known > full + _CLOCK_ERROR:  # the clock was set back
        known = now
    until = max(now, known) + bounds.key_job_seconds
    if (late := until - full) > _CLOCK_ERROR:
        raise rate_limit(bounds, late)
    db.execute("INSERT OR REPLACE INTO rates VALUES (?, ?)", (new.owner, until))
