"""The webhooks in SQLite: events that are not delivered, and the lanes in which they are sent.

``webhooks`` has a row for each job with a webhook that has not ended. A lane with a token is busy:
``due`` is the end of the lease. A lane without one is due with its first delivery.
"""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import asdict, replace

from jobs.errors import QueueFullError
from jobs.job import (
    WEBHOOK_PROGRESS_SECONDS,
    Delivery,
    Job,
    StoredPicture,
    Webhook,
    WebhookEvent,
    WebhookOutcome,
)
from jobs.storage.interface import (
    WEBHOOKS_FULL,
    WEBHOOKS_RETRY_SECONDS,
    Bounds,
    WebhookState,
    webhook_limit,
)
from jobs.storage.sqlite_tables import existing_job

SCHEMA = """
CREATE TABLE IF NOT EXISTS webhooks (
    job TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    lane TEXT NOT NULL,
    progress_at REAL,
    progresses INTEGER NOT NULL DEFAULT 0,
    last TEXT
);
CREATE TABLE IF NOT EXISTS deliveries (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    event TEXT NOT NULL,
    url TEXT NOT NULL,
    lane TEXT NOT NULL,
    due REAL NOT NULL,
    created_at REAL NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS deliveries_by_lane ON deliveries (lane, due, sequence);
CREATE INDEX IF NOT EXISTS deliveries_by_owner ON deliveries (json_extract(record, '$.owner'));
CREATE INDEX IF NOT EXISTS deliveries_by_time ON deliveries (created_at);
CREATE TABLE IF NOT EXISTS lanes (lane TEXT PRIMARY KEY, due REAL NOT NULL, token TEXT);
CREATE INDEX IF NOT EXISTS lanes_by_due ON lanes (due);
CREATE TABLE IF NOT EXISTS webhook_outcomes (outcome TEXT PRIMARY KEY, number INTEGER NOT NULL);
"""
_FAILURES = "failures"
_FIRST = "SELECT * FROM deliveries WHERE lane = ? ORDER BY due, sequence LIMIT 1"


def add_webhook(db: sqlite3.Connection, job_id: str, webhook: Webhook) -> None:
    query = "INSERT INTO webhooks (job, url, lane) VALUES (?, ?, ?)"
    db.execute(query, (job_id, webhook.url, webhook.lane))


def check_room(db: sqlite3.Connection, owner: str, bounds: Bounds) -> None:
    """Raise QueueFullError if no further webhook of the owner may wait."""
    query = "SELECT count(*) FROM deliveries"
    if db.execute(query).fetchone()[0] >= bounds.webhooks:
        raise QueueFullError(WEBHOOKS_FULL, WEBHOOKS_RETRY_SECONDS)
    if not owner or not bounds.key_webhooks:
        return
    query = "SELECT count(*) FROM deliveries WHERE json_extract(record, '$.owner') = ?"
    (waiting,) = db.execute(query, (owner,)).fetchone()
    if waiting >= bounds.key_webhooks:
        raise webhook_limit(waiting)


def report(db: sqlite3.Connection, job_id: str, event: WebhookEvent, now: float) -> bool:
    """Record an event if the job has a webhook; its identifier depends on the event alone."""
    hook = db.execute("SELECT * FROM webhooks WHERE job = ?", (job_id,)).fetchone()
    if hook is None or (event == "started" and hook["progress_at"]):
        return False
    if event == "progress" and now - hook["progress_at"] < WEBHOOK_PROGRESS_SECONDS:
        return False
    if hook["last"]:
        _drop(db, hook["last"], "superseded")
    message = f"msg_{job_id}_{event}"
    if event == "completed":
        db.execute("DELETE FROM webhooks WHERE job = ?", (job_id,))
    elif event == "started":
        db.execute("UPDATE webhooks SET progress_at = ? WHERE job = ?", (now, job_id))
    else:
        number = hook["progresses"] + 1
        message = f"{message}_{number}"
        query = "UPDATE webhooks SET progress_at = ?, progresses = ?, last = ? WHERE job = ?"
        db.execute(query, (now, number, message, job_id))
    record = json.dumps(asdict(replace(existing_job(db, job_id), read_at=now)))
    db.execute(
        "INSERT INTO deliveries (id, event, url, lane, due, created_at, record) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (message, event, hook["url"], hook["lane"], now, now, record),
    )
    query = "SELECT 1 FROM lanes WHERE lane = ? AND token IS NOT NULL"
    if db.execute(query, (hook["lane"],)).fetchone() is None:
        _free(db, hook["lane"], now)
    return True


def claim_delivery(
    db: sqlite3.Connection, token: str, lease_seconds: float, now: float
) -> Delivery | None:
    query = "SELECT lane FROM lanes WHERE due <= ? ORDER BY due LIMIT 1"
    while row := db.execute(query, (now,)).fetchone():
        lane = row["lane"]
        first = db.execute(_FIRST, (lane,)).fetchone()
        if first and first["due"] <= now:
            change = "UPDATE lanes SET due = ?, token = ? WHERE lane = ?"
            db.execute(change, (now + lease_seconds, token, lane))
            return _delivery(first, token, now)
        _free(db, lane, now)
    return None


def end_delivery(
    db: sqlite3.Connection, delivery: Delivery, outcome: WebhookOutcome, now: float
) -> bool:
    if not _holds_lane(db, delivery):
        return False
    _drop(db, delivery.id, outcome)
    _free(db, delivery.webhook.lane, now)
    return True


def retry_delivery(
    db: sqlite3.Connection, delivery: Delivery, due: float, now: float, *, is_failure: bool
) -> bool:
    if not _holds_lane(db, delivery):
        return False
    if is_failure:
        _count(db, _FAILURES)
    # Without effect if a newer event has replaced it.
    change = "UPDATE deliveries SET due = ?, tries = tries + ? WHERE id = ?"
    db.execute(change, (due, is_failure, delivery.id))
    _free(db, delivery.webhook.lane, now)
    return True


def webhook_state(db: sqlite3.Connection) -> WebhookState:
    query = "SELECT count(*), min(created_at) FROM deliveries"
    waiting, oldest = db.execute(query).fetchone()
    counts = {row[0]: row[1] for row in db.execute("SELECT * FROM webhook_outcomes").fetchall()}
    failures = counts.pop(_FAILURES, 0)
    age = time.time() - oldest if waiting else 0.0
    return WebhookState(waiting, age, counts, failures)


def _delivery(row: sqlite3.Row, token: str, now: float) -> Delivery:
    record = json.loads(row["record"])
    pictures = tuple(StoredPicture(**one) for one in record.pop("pictures"))
    return Delivery(
        id=row["id"],
        event=row["event"],
        webhook=Webhook(row["url"], row["lane"]),
        job=Job(**record, pictures=pictures),
        tries=row["tries"],
        age=now - row["created_at"],
        token=token,
    )


def _holds_lane(db: sqlite3.Connection, delivery: Delivery) -> bool:
    query = "SELECT 1 FROM lanes WHERE lane = ? AND token = ?"
    found = db.execute(query, (delivery.webhook.lane, delivery.token)).fetchone()
    return found is not None


def _drop(db: sqlite3.Connection, message: str, outcome: WebhookOutcome) -> None:
    if db.execute("DELETE FROM deliveries WHERE id = ?", (message,)).rowcount:
        _count(db, outcome)


def _count(db: sqlite3.Connection, name: str) -> None:
    db.execute(
        "INSERT INTO webhook_outcomes VALUES (?, 1) ON CONFLICT DO UPDATE SET number = number + 1",
        (name,),
    )


def _free(db: sqlite3.Connection, lane: str, now: float) -> None:
    """End the lease of a lane, if there is one; it follows the other lanes that are due."""
    first = db.execute(_FIRST, (lane,)).fetchone()
    if first is None:
        db.execute("DELETE FROM lanes WHERE lane = ?", (lane,))
    else:
        due = max(first["due"], now)
        db.execute("INSERT OR REPLACE INTO lanes VALUES (?, ?, NULL)", (lane, due))
