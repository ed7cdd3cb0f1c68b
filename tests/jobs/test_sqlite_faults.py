"""An SQLite file on a disk that is full."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import StorageUnavailableError
from jobs.storage import Storage
from jobs.storage.sqlite import SQLiteStorage
from tests.jobs.storages import LONG, job, play


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
