"""An SQLite file that is damaged or on a full disk, and values that do not fit."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.errors import KeyLimitError, StorageUnavailableError
from jobs.storage import Storage, Submission
from jobs.storage.sqlite import SQLiteStorage
from tests.jobs.storages import BOUNDS, LONG, job, picture, play


def test_a_full_disk_is_reported_and_can_be_freed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(storage: Storage) -> None:
        assert isinstance(storage, SQLiteStorage)
        await storage.submit(job("first"))
        await storage._read(lambda db: db.execute("PRAGMA max_page_count = 1").fetchone())
        with pytest.raises(StorageUnavailableError, match="disk is full"):
            await storage.submit(job("second", body=b"x" * 9_000))
        assert "sqlite_path: a call failed: database or disk is full" in caplog.text
        await storage._read(lambda db: db.execute("PRAGMA max_page_count = 9999").fetchone())
        await storage.submit(job("second"))
        claims = [await storage.claim("sd", LONG) for _ in range(2)]
        assert [claim.job.id for claim in claims if claim] == ["first", "second"]

    play(lambda bounds: SQLiteStorage(tmp_path / "jobs.sqlite3", bounds), scenario)


def test_a_picture_that_is_too_large_does_not_stop_other_jobs(tmp_path: Path) -> None:
    async def scenario(storage: Storage) -> None:
        assert isinstance(storage, SQLiteStorage)
        await storage.submit(job("large"))
        claim = await storage.claim("sd", LONG)
        assert claim
        limit = sqlite3.SQLITE_LIMIT_LENGTH
        await storage._read(lambda db: db.setlimit(limit, 500))

        ends = [storage.finish(claim, [picture(b"x" * 501)]), storage.submit(job("other"))]
        late, accepted = await asyncio.gather(*ends, return_exceptions=True)

        assert isinstance(late, StorageUnavailableError)
        assert isinstance(accepted, Submission)
        assert await storage.renew(claim, LONG, 1, 4)

    play(lambda bounds: SQLiteStorage(tmp_path / "jobs.sqlite3", bounds), scenario)


def test_a_start_counts_the_waiting_jobs(tmp_path: Path) -> None:
    """A process of an earlier version can add jobs to the file before the counts exist."""
    path = tmp_path / "jobs.sqlite3"

    async def before(storage: Storage) -> None:
        for name in ("first", "second", "third"):
            await storage.submit(job(name))

    async def after(storage: Storage) -> None:
        assert (await storage.state("sd")).queued == 3
        third = await storage.read("third")
        assert third and third.position == 2

    play(lambda bounds: SQLiteStorage(path, bounds), before)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE places SET jobs = 1")
    db.close()
    play(lambda bounds: SQLiteStorage(path, bounds), after)


def test_leases_last_until_workers_can_renew_them_after_a_suspension(tmp_path: Path) -> None:
    async def scenario(storage: Storage) -> None:
        assert isinstance(storage, SQLiteStorage)
        await storage.submit(job("a"))
        claim = await storage.claim("sd", LONG)
        assert claim
        await storage.sweep()
        storage._swept_at -= 10
        assert await storage.renew(claim, 0, 1, 20)
        await storage.sweep()
        await storage.sweep()

        assert await storage.renew(claim, 0, 2, 20), "no sweep ran for ten seconds"
        await storage.sweep()
        assert not await storage.renew(claim, LONG, 2, 20), "sweeps run again"

    play(lambda bounds: SQLiteStorage(tmp_path / "jobs.sqlite3", bounds), scenario)


def test_an_owner_may_submit_after_the_clock_was_set_back(tmp_path: Path) -> None:
    async def scenario(storage: Storage) -> None:
        assert isinstance(storage, SQLiteStorage)
        change = "INSERT INTO rates VALUES ('ann', ?)"
        await storage._read(lambda db: db.execute(change, (time.time() + 3600,)).fetchone())

        await storage.submit(job("a", owner="ann"))
        await storage.submit(job("b", owner="ann"))
        with pytest.raises(KeyLimitError):
            await storage.submit(job("c", owner="ann"))

    bounds = replace(BOUNDS, key_jobs_per_minute=2)
    play(lambda _: SQLiteStorage(tmp_path / "jobs.sqlite3", bounds), scenario)
