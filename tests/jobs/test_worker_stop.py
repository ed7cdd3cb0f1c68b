"""How the worker stops."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import SecretStr

from jobs import worker as worker_module
from jobs.predictor_client import PredictorClient
from jobs.settings import Settings
from jobs.storage import open_storage
from jobs.worker import Worker
from tests.jobs.scripted_predictor import ScriptedPredictor
from tests.jobs.storages import job
from tests.redis_server import RedisServer, needs_redis
from tests.waiting import wait_until


@needs_redis
def test_a_storage_that_does_not_answer_does_not_hold_up_the_end(
    redis: RedisServer, predictor: ScriptedPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_GIVE_BACK_SECONDS", 0.5)
    settings = Settings(
        redis_url=SecretStr(redis.url), predictor_url=predictor.url, models="sd", drain_seconds=0
    )

    async def scenario() -> None:
        storage, client = open_storage(settings), PredictorClient(settings)
        await storage.open()
        worker = Worker(storage, client, settings, on_crash=lambda: None)
        worker.start()
        await storage.submit(job("running", body=b'{"prompt": "hold", "seed": 1}'))
        await asyncio.to_thread(wait_until, lambda: bool(predictor.calls))
        redis.kill()
        await asyncio.wait_for(worker.drain(), 30)
        await client.close()
        await storage.close()

    asyncio.run(scenario())
