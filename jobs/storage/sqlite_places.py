"""The places of waiting jobs, counted by blocks of them.

A count of all jobs ahead takes a millisecond if 10,000 wait, and each submission and each read of a
waiting job needs its position. Triggers keep the counts of the blocks.
"""

from __future__ import annotations

import sqlite3

_BLOCK = 256
_ADD = f"""
    INSERT INTO places VALUES (new.model, new.priority, new.sequence / {_BLOCK}, 1)
    ON CONFLICT DO UPDATE SET jobs = jobs + 1;
"""  # noqa: S608

# Each start counts the jobs again, also those that an earlier version has added without triggers.
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS places (
    model TEXT NOT NULL, priority INTEGER NOT NULL, block INTEGER NOT NULL, jobs INTEGER NOT NULL,
    PRIMARY KEY (model, priority, block)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS job_enters AFTER INSERT ON jobs
WHEN new.status = 'queued' BEGIN {_ADD} END;
CREATE TRIGGER IF NOT EXISTS job_returns AFTER UPDATE OF status ON jobs
WHEN new.status = 'queued' AND old.status != 'queued' BEGIN {_ADD} END;
CREATE TRIGGER IF NOT EXISTS job_leaves AFTER UPDATE OF status ON jobs
WHEN old.status = 'queued' AND new.status != 'queued' BEGIN
    UPDATE places SET jobs = jobs - 1 WHERE model = old.model AND priority = old.priority
    AND block = old.sequence / {_BLOCK};
    DELETE FROM places WHERE model = old.model AND priority = old.priority
    AND block = old.sequence / {_BLOCK} AND jobs = 0;
END;
DELETE FROM places;
INSERT INTO places SELECT model, priority, sequence / {_BLOCK}, count(*) FROM jobs
WHERE status = 'queued' GROUP BY 1, 2, 3;
"""  # noqa: S608

# How many jobs of the same model are ahead of a row of ``jobs``.
POSITION = f"""
    (SELECT coalesce(sum(places.jobs), 0) FROM places WHERE places.model = jobs.model
        AND (places.priority > jobs.priority
            OR (places.priority = jobs.priority AND block < jobs.sequence / {_BLOCK})))
    + (SELECT count(*) FROM jobs AS other WHERE other.status = 'queued'
        AND other.model = jobs.model AND other.priority = jobs.priority
        AND other.sequence >= jobs.sequence / {_BLOCK} * {_BLOCK}
        AND other.sequence < jobs.sequence)
"""  # noqa: S608


def waiting_jobs(db: sqlite3.Connection) -> int:
    """The jobs of all models that wait."""
    return int(db.execute("SELECT coalesce(sum(jobs), 0) FROM places").fetchone()[0])
