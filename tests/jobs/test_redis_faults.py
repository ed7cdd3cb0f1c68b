"""A Redis that has no memory left, and one that has evicted records."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx
import pytest
from pydantic import SecretStr
from redis import Redis

from jobs.api.service import Service
from jobs.errors import StorageUnavailableError
from jobs.job import EXPIRED, Job, Picture, StoredPicture, Webhook
from jobs.server import application
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.storage.redis import RedisStorage
from jobs.storage.redis_records import job_of
from tests.jobs.storages import BOUNDS, LONG, job, picture, play
from tests.redis_server import RedisServer, needs_redis

pytestmark = needs_redis
HOOK = Webhook("https://example.com/hook", "example.com/0")


def test_jobs_end_while_the_memory_is_full(redis: RedisServer) -> None:
    server = Redis.from_url(redis.url)

    async def scenario(storage: Storage) -> None:
        for one in ("done", "running", "failing", "returned", "waiting"):
            await storage.submit(replace(job(one), webhook=HOOK))
        done, running, failing, returned = [await storage.claim("sd", LONG) for _ in range(4)]
        assert done
        assert running
        assert failing
        assert returned
        await storage.finish(done, [picture(b"one")])
        delivery = await storage.claim_delivery(LONG)
        assert delivery
        server.zadd("jobs:expiry", {"done": 1})
        server.config_set("maxmemory", 1)

        with pytest.raises(StorageUnavailableError):
            await storage.submit(job("more"))
        assert await storage.renew(running, LONG, 1, 4)
        assert await storage.fail(failing, "a reason")
        assert await storage.give_back(returned, None)
        assert await storage.retry_delivery(delivery, 0)
        again = await storage.claim_delivery(LONG)
        assert again
        assert await storage.end_delivery(again, "delivered")
        await storage.sweep()
        assert await storage.read("done") is None
        assert await storage.picture("done", 0) is None
        assert await storage.cancel("waiting")
        with pytest.raises(StorageUnavailableError):
            await storage.finish(running, [picture(b"two")])
        server.config_set("maxmemory", 0)
        assert await storage.finish(running, [picture(b"two")])
        await storage.submit(job("more"))

    play(lambda bounds: RedisStorage(redis.url, bounds), scenario)


def test_evicted_records_do_not_block_the_queue(redis: RedisServer) -> None:
    server = Redis.from_url(redis.url)

    async def scenario(storage: Storage) -> None:
        for one in ("waits", "runs", "stays"):
            await storage.submit(job(one, key=one, priority=9 if one == "runs" else 5))
        assert await storage.claim("sd", LONG)
        server.delete("jobs:job:waits", "jobs:job:runs")

        assert [one.id for one in await storage.page(None, None, 10)] == ["stays"]
        submission = await storage.submit(job("new", key="waits"))
        assert submission.is_new
        claim = await storage.claim("sd", LONG)
        assert claim
        assert claim.job.id == "stays"
        server.zadd("jobs:leases", {"runs": 1})
        server.zadd("jobs:expiry", {"runs": 1})
        await storage.sweep()
        for name in ("leases", "expiry", "all", "status:starting", "status:queued"):
            assert not {b"waits", b"runs"} & set(server.zrange(f"jobs:{name}", 0, -1))

    play(lambda bounds: RedisStorage(redis.url, bounds), scenario)


def test_evicted_records_stop_neither_the_bucket_nor_webhooks(redis: RedisServer) -> None:
    server = Redis.from_url(redis.url)

    async def scenario(storage: Storage) -> None:
        for one in ("lost", "stays"):
            await storage.submit(replace(job(one), webhook=HOOK))
            claim = await storage.claim("sd", LONG)
            assert claim
            uploaded = StoredPicture("image/png", 1, "", {}, "s3://pictures/1")
            await storage.finish(claim, [Picture("image/png", b"", {}, uploaded)])
            server.zadd("jobs:uploads", {one: 1})
        server.delete("jobs:job:lost", *server.keys("jobs:delivery:msg_lost_*"))

        assert [one.id for one in await storage.expired_uploads()] == ["stays"]
        assert server.zrange("jobs:uploads", 0, -1) == [b"stays"]
        delivery = await storage.claim_delivery(LONG)
        assert delivery
        assert delivery.id == "msg_stays_started"
        assert (await storage.webhook_state()).waiting == 2

    play(lambda bounds: RedisStorage(redis.url, bounds), scenario)


def test_a_claim_whose_response_is_lost_is_repeated_for_the_same_job(redis: RedisServer) -> None:
    """The client sends a call again if the connection ends before the response."""

    async def scenario(storage: Storage) -> None:
        assert isinstance(storage, RedisStorage)
        for one in ("a", "b"):
            await storage.submit(job(one))
        call = (storage._claim, "sd", "token", 60_000, BOUNDS.tries, EXPIRED)

        first, again = [await storage._run(*call) for _ in range(2)]

        assert job_of(first[0]).id == job_of(again[0]).id == "a"
        assert again[1] == first[1]
        assert (await storage.state("sd")).queued == 1

    play(lambda bounds: RedisStorage(redis.url, bounds), scenario)


def test_a_delivery_whose_response_is_lost_is_claimed_again(redis: RedisServer) -> None:
    async def scenario(storage: Storage) -> None:
        assert isinstance(storage, RedisStorage)
        for one in ("a", "b"):
            await storage.submit(replace(job(one), webhook=Webhook("https://x", f"x/{one}")))
            await storage.cancel(one)
        call = (storage._claim_delivery, "token", 60_000)

        first, again = [await storage._run(*call) for _ in range(2)]

        assert first[0] == again[0] == b"msg_a_completed"
        other = await storage.claim_delivery(LONG)
        assert other and other.id == "msg_b_completed"

    play(lambda bounds: RedisStorage(redis.url, bounds), scenario)


def test_calls_that_follow_a_restart_fail_one_by_one(redis: RedisServer) -> None:
    """Redis has forgotten the scripts, and its memory is full."""
    server = Redis.from_url(redis.url)

    async def scenario(storage: Storage) -> None:
        await storage.submit(job("first"))
        server.script_flush()
        server.config_set("maxmemory", 1)
        calls = [storage.cancel("first"), storage.submit(job("second")), storage.read("first")]

        cancelled, refused, found = await asyncio.gather(*calls, return_exceptions=True)

        assert isinstance(cancelled, Job)
        assert isinstance(refused, StorageUnavailableError)
        assert found == replace(cancelled, read_at=found.read_at)

    play(lambda bounds: RedisStorage(redis.url, bounds), scenario)


def test_a_job_is_accepted_although_the_storage_fails_during_the_wait(redis: RedisServer) -> None:
    settings = Settings(redis_url=SecretStr(redis.url), models="sd")

    async def scenario(storage: Storage) -> None:
        transport = httpx.ASGITransport(application(Service(storage, settings)))
        async with httpx.AsyncClient(transport=transport, base_url="http://jobs") as client:
            headers = {"prefer": "wait=30"}
            request = client.post("/v1/jobs", json={"prompt": "x"}, headers=headers)
            waiting = asyncio.create_task(request)
            while not await storage.page(None, None, 1):  # noqa: ASYNC110
                await asyncio.sleep(0)
            redis.kill()
            response = await waiting

        assert response.status_code == 202
        assert response.headers["location"] == f"/v1/jobs/{response.json()['id']}"

    play(lambda bounds: RedisStorage(redis.url, bounds), scenario)
