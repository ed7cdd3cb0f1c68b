"""The tables of the SQLite storage, and what its methods read and write in a transaction."""

from __future__ import annotations

import json
import sqlite3
import time

from jobs.job import Claim, Job, Status, StoredPicture
from jobs.storage.interface import NEWEST_SHARE, ModelState
from jobs.storage.sqlite_places import POSITION

# A condition: a worker has a lease on the job.
RUNNING = "status IN ('starting', 'in_progress')"

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    model TEXT NOT NULL,
    status TEXT NOT NULL,
    priority INTEGER NOT NULL,
    seed INTEGER,
    created_at REAL NOT NULL,
    expires_in REAL NOT NULL,
    expires_at REAL NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    started_at REAL,
    accepted_at REAL,
    ended_at REAL,
    step INTEGER NOT NULL DEFAULT 0,
    steps INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    pictures TEXT NOT NULL DEFAULT '[]',
    stored_bytes INTEGER NOT NULL DEFAULT 0,
    has_lost_pictures INTEGER NOT NULL DEFAULT 0,
    token TEXT,
    lease_until REAL,
    runs_alone INTEGER NOT NULL DEFAULT 0,
    owner TEXT NOT NULL DEFAULT '',
    idempotency_key TEXT,
    digest TEXT NOT NULL,
    UNIQUE (owner, idempotency_key)
);
CREATE INDEX IF NOT EXISTS jobs_by_place ON jobs (status, model, priority DESC, sequence);
CREATE INDEX IF NOT EXISTS jobs_by_expiry ON jobs (expires_at);
CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs (owner, status);
CREATE TABLE IF NOT EXISTS bodies (job TEXT PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS pictures (
    job TEXT NOT NULL, number INTEGER NOT NULL, content BLOB NOT NULL, PRIMARY KEY (job, number)
);
CREATE TABLE IF NOT EXISTS previews (job TEXT PRIMARY KEY, event BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS models (model TEXT PRIMARY KEY, seconds REAL NOT NULL);
CREATE TABLE IF NOT EXISTS rates (owner TEXT PRIMARY KEY, until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS outcomes (
    model TEXT NOT NULL, status TEXT NOT NULL, jobs INTEGER NOT NULL, PRIMARY KEY (model, status)
);
CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO totals VALUES ('bodies', 0), ('pictures', 0);
"""


def existing_job(db: sqlite3.Connection, job_id: str) -> Job:
    job = find_job(db, job_id)
    assert job is not None
    return job


# One query, because each lets the event loop take the interpreter for a while.
_FIND = f"""
    SELECT *, CASE status WHEN 'queued' THEN {POSITION} END AS position,
    (SELECT count(*) FROM jobs AS other WHERE other.model = jobs.model AND other.{RUNNING})
        AS model_running,
    coalesce((SELECT seconds FROM models WHERE models.model = jobs.model), 0.0) AS model_seconds
    FROM jobs WHERE id = ?
"""  # noqa: S608
_COPIED = (
    *("id", "sequence", "model", "status", "priority", "seed", "created_at", "expires_in"),
    *("expires_at", "tries", "started_at", "accepted_at", "ended_at", "step", "steps", "error"),
    *("owner", "position", "model_running", "model_seconds"),
)


def find_job(db: sqlite3.Connection, job_id: str) -> Job | None:
    row = db.execute(_FIND, (job_id,)).fetchone()
    if row is None:
        return None
    return Job(
        **{name: row[name] for name in _COPIED},
        read_at=time.time(),
        pictures=tuple(StoredPicture(**one) for one in json.loads(row["pictures"])),
        has_lost_pictures=bool(row["has_lost_pictures"]),
    )


def _running(db: sqlite3.Connection, model: str) -> int:
    query = f"SELECT count(*) FROM jobs WHERE model = ? AND {RUNNING}"  # noqa: S608
    return int(db.execute(query, (model,)).fetchone()[0])


def is_valid(db: sqlite3.Connection, claim: Claim) -> bool:
    query = "SELECT 1 FROM jobs WHERE id = ? AND token = ?"
    return db.execute(query, (claim.job.id, claim.token)).fetchone() is not None


def model_seconds(db: sqlite3.Connection, model: str) -> float:
    row = db.execute("SELECT seconds FROM models WHERE model = ?", (model,)).fetchone()
    return row["seconds"] if row else 0.0


def note_seconds(db: sqlite3.Connection, model: str, newest: float) -> None:
    known = model_seconds(db, model)
    seconds = known + NEWEST_SHARE * (newest - known) if known else newest
    db.execute("INSERT OR REPLACE INTO models VALUES (?, ?)", (model, seconds))


def note_outcome(db: sqlite3.Connection, model: str, status: Status) -> None:
    db.execute(
        "INSERT INTO outcomes VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET jobs = jobs + 1",
        (model, status),
    )


def model_state(db: sqlite3.Connection, model: str) -> ModelState:
    query = (
        "SELECT (SELECT coalesce(sum(jobs), 0) FROM places WHERE model = ?1), "
        "(SELECT created_at FROM jobs WHERE sequence = "
        "(SELECT min(sequence) FROM jobs WHERE status = 'queued' AND model = ?1))"
    )
    queued, oldest = db.execute(query, (model,)).fetchone()
    query = "SELECT status, jobs FROM outcomes WHERE model = ?"
    return ModelState(
        queued,
        _running(db, model),
        time.time() - oldest if queued else 0.0,
        {row["status"]: row["jobs"] for row in db.execute(query, (model,)).fetchall()},
    )


def total_bytes(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute("SELECT bytes FROM totals WHERE name = ?", (name,)).fetchone()[0])


def add_bytes(db: sqlite3.Connection, name: str, change: int) -> None:
    db.execute("UPDATE totals SET bytes = bytes + ? WHERE name = ?", (change, name))


def drop_pictures(db: sqlite3.Connection, job_id: str) -> None:
    query = "SELECT stored_bytes FROM jobs WHERE id = ?"
    (size,) = db.execute(query, (job_id,)).fetchone()
    db.execute("DELETE FROM pictures WHERE job = ?", (job_id,))
    db.execute("UPDATE jobs SET stored_bytes = 0 WHERE id = ?", (job_id,))
    add_bytes(db, "pictures", -size)
