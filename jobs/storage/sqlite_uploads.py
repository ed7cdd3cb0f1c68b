"""The jobs in SQLite with pictures in a bucket, whose records ``sweep`` must not delete yet."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

from jobs.job import Job
from jobs.storage.interface import SWEEP_SIZE
from jobs.storage.sqlite_tables import existing_job

SCHEMA = """
CREATE TABLE IF NOT EXISTS uploads (job TEXT PRIMARY KEY, expires_at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS uploads_by_expiry ON uploads (expires_at);
"""
# A condition: the record has no pictures in a bucket.
NOT_UPLOADED = "NOT EXISTS (SELECT 1 FROM uploads WHERE uploads.job = jobs.id)"


def note_upload(db: sqlite3.Connection, job_id: str) -> None:
    """Keep the record of a job that has ended, until its pictures are deleted."""
    query = "INSERT INTO uploads SELECT id, expires_at FROM jobs WHERE id = ?"
    db.execute(query, (job_id,))


def expired_uploads(db: sqlite3.Connection) -> list[Job]:
    query = "SELECT job FROM uploads WHERE expires_at <= ? ORDER BY expires_at LIMIT ?"
    rows = db.execute(query, (time.time(), SWEEP_SIZE)).fetchall()
    return [existing_job(db, row["job"]) for row in rows]


def release_uploads(db: sqlite3.Connection, job_ids: Sequence[str]) -> None:
    db.executemany("DELETE FROM uploads WHERE job = ?", [(one,) for one in job_ids])
