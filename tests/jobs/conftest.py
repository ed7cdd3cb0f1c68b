"""Fixtures: each storage, a scripted predictor, and processes of the jobs program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.storage.redis import RedisStorage
from jobs.storage.sqlite import SQLiteStorage
from tests.jobs.scripted_predictor import ScriptedPredictor
from tests.jobs.storages import Open
from tests.redis_server import needs_redis, redis  # noqa: F401  # a fixture

STORAGES = ["sqlite", pytest.param("redis", marks=needs_redis)]


@pytest.fixture(params=STORAGES)
def make_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Creates storages that share their jobs, as replicas do."""
    if request.param == "sqlite":
        yield lambda bounds: SQLiteStorage(tmp_path / "jobs.sqlite3", bounds)
    else:
        url = request.getfixturevalue("redis").url
        yield lambda bounds: RedisStorage(url, bounds)


@pytest.fixture(params=STORAGES)
def storage_flags(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The settings of replicas that share their jobs."""
    if request.param == "sqlite":
        return {"sqlite_path": str(tmp_path / "jobs.sqlite3")}
    return {"redis_url": request.getfixturevalue("redis").url}


@pytest.fixture
def predictor() -> Iterator[ScriptedPredictor]:
    """A predictor whose calls follow a script."""
    with ScriptedPredictor() as running:
        yield running
