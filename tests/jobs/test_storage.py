"""The contract of a storage, on SQLite and on a real Redis."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from jobs.errors import IdempotencyConflictError, KeyLimitError, QueueFullError
from jobs.job import EXPIRED, WORKER_LOST, Claim
from jobs.storage import Storage, Submission
from jobs.storage.redis import RedisStorage
from tests.jobs.storages import BOUNDS, LONG, Open, job, picture, play
from tests.redis_server import RedisServer, needs_redis

BODY = b'{"prompt": "a red star"}'


async def claimed(storage: Storage, lease_seconds: float = LONG, model: str = "sd") -> Claim:
    claim = await storage.claim(model, lease_seconds)
    assert claim is not None
    return claim


async def claim_all(storage: Storage) -> list[str]:
    found = []
    while claim := await storage.claim("sd", LONG):
        found.append(claim.job.id)
    return found


async def status_of(storage: Storage, job_id: str) -> tuple[str, str | None]:
    found = await storage.read(job_id)
    assert found is not None
    return found.status, found.error


def test_jobs_run_by_priority_then_in_order_of_arrival(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        for name, priority in [("a", 5), ("b", 5), ("low", 0), ("high", 9), ("c", 5)]:
            await storage.submit(job(name, priority=priority))
        await storage.submit(job("other", model="sdxl"))
        positions = {
            name: found.position
            for name in ("a", "b", "low", "high", "c", "other")
            if (found := await storage.read(name))
        }

        assert positions == {"high": 0, "a": 1, "b": 2, "c": 3, "low": 4, "other": 0}
        assert await claim_all(storage) == ["high", "a", "b", "c", "low"]

    play(make_storage, scenario)


def test_a_claim_has_the_body_and_starts_the_job(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        submitted = (await storage.submit(job("a"))).job
        claim = await claimed(storage)

        assert (submitted.status, submitted.seed, submitted.tries) == ("queued", 7, 0)
        assert submitted.expires_at == pytest.approx(submitted.created_at + LONG, abs=0.01)
        assert (claim.body, claim.job.status, claim.job.tries) == (BODY, "starting", 1)
        assert claim.job.started_at is not None
        assert claim.job.position is None
        assert claim.job == replace(await storage.read("a"), read_at=claim.job.read_at)  # type: ignore[type-var]

    play(make_storage, scenario)


def test_each_job_has_one_worker(make_storage: Open) -> None:
    async def scenario(one: Storage, other: Storage) -> None:
        names = {f"job-{number}" for number in range(20)}
        for name in names:
            await one.submit(job(name))
        claims = await asyncio.gather(*(claimed(storage) for storage in [one, other] * 10))

        assert {claim.job.id for claim in claims} == names
        assert await one.claim("sd", LONG) is None

    play(make_storage, scenario, replicas=2)


def test_progress_is_recorded_while_the_lease_lasts(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a"))
        claim = await claimed(storage)
        assert await storage.renew(claim, LONG, 0, 0)
        assert (await status_of(storage, "a"))[0] == "starting"
        assert await storage.renew(claim, LONG, 3, 20)
        found = await storage.read("a")

        assert found is not None
        assert (found.status, found.step, found.steps) == ("in_progress", 3, 20)

    play(make_storage, scenario)


def test_the_newest_preview_is_kept_while_the_claim_lasts(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a"))
        claim = await claimed(storage)
        assert await storage.preview("a") is None
        with storage.changes.watch("preview:a") as changed:
            assert await storage.note_preview(claim, b"early")
            assert await storage.note_preview(claim, b"late")
            await asyncio.wait_for(changed.wait(), 30)
        assert await storage.preview("a") == b"late"
        assert await storage.give_back(claim, None)

        assert await storage.preview("a") is None
        assert not await storage.note_preview(claim, b"too late")

    play(make_storage, scenario)


def test_a_job_whose_worker_is_lost_runs_again_and_ends_once(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a"))
        lost = await claimed(storage)
        assert await storage.renew(lost, 0, 1, 20)
        await storage.sweep()
        assert await status_of(storage, "a") == ("queued", None)
        again = await claimed(storage)

        assert again.job.tries == 2
        assert not await storage.renew(lost, LONG, 1, 20)
        assert not await storage.finish(lost, [picture(b"old")])
        assert not await storage.fail(lost, "old")
        assert not await storage.give_back(lost, "old")
        assert await storage.finish(again, [picture(b"new")])
        assert not await storage.finish(again, [picture(b"twice")])
        assert await storage.picture("a", 0) == b"new"

    play(make_storage, scenario)


def test_a_lease_that_is_renewed_is_kept(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a"))
        claim = await claimed(storage, lease_seconds=0)
        assert await storage.renew(claim, LONG, 0, 0)
        await storage.sweep()

        assert (await status_of(storage, "a"))[0] == "starting"

    play(make_storage, scenario)


def test_a_job_fails_when_each_of_its_workers_is_lost(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a"))
        for _ in range(BOUNDS.tries):
            claim = await claimed(storage)
            assert await storage.renew(claim, 0, 1, 20), "the predictor has accepted the job"
            await storage.sweep()

        assert await status_of(storage, "a") == ("failed", WORKER_LOST)
        assert await storage.claim("sd", LONG) is None

    play(make_storage, scenario)


@needs_redis
def test_leases_last_until_workers_can_renew_them_after_an_outage(redis: RedisServer) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a"))
        claim = await claimed(storage)
        assert await storage.renew(claim, 0, 1, 20)
        async with Redis.from_url(redis.url) as client:
            await client.set("jobs:swept", int(time.time() - 10) * 1000)
        await storage.sweep()
        await storage.sweep()

        assert await storage.renew(claim, 0, 2, 20), "no sweep ran for ten seconds"
        await storage.sweep()
        assert not await storage.renew(claim, LONG, 2, 20), "sweeps run again"

    play(lambda bounds: RedisStorage(redis.url, bounds), scenario)


def test_losing_workers_that_wait_for_the_predictor_does_not_count(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a"))
        for _ in range(2 * BOUNDS.tries):
            assert await storage.renew(await claimed(storage), 0, 0, 0)
            await storage.sweep()

        assert (await claimed(storage)).job.tries == 1

    play(make_storage, scenario)


def test_a_job_that_is_given_back_keeps_its_place(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a"))
        await storage.submit(job("b"))
        claim = await claimed(storage)
        assert await storage.renew(claim, LONG, 3, 20)
        assert await storage.give_back(claim, "the predictor stopped")
        found = await storage.read("a")

        assert found is not None
        assert (found.status, found.position, found.tries, found.step) == ("queued", 0, 1, 0)
        assert (await claimed(storage)).job.id == "a"

    play(make_storage, scenario)


def test_refusals_do_not_count_as_tries(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a"))
        for _ in range(2 * BOUNDS.tries):
            assert await storage.give_back(await claimed(storage), None)

        assert (await claimed(storage)).job.tries == 1

    play(make_storage, scenario)


def test_the_last_failed_try_ends_the_job_with_its_reason(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a"))
        for number in range(BOUNDS.tries):
            assert await storage.give_back(await claimed(storage), f"reason {number}")

        assert await status_of(storage, "a") == ("failed", "reason 2")

    play(make_storage, scenario)


def test_the_last_try_runs_alone(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("suspect"))
        for _ in range(BOUNDS.tries - 1):
            assert await storage.give_back(await claimed(storage), "the predictor stopped")
        await storage.submit(job("first", priority=9))
        await storage.submit(job("later"))
        await storage.submit(job("elsewhere", model="sdxl"))
        first = await claimed(storage)

        assert first.job.id == "first"
        assert await storage.claim("sd", LONG) is None, "the suspect waits for the others"
        assert await storage.finish(first, [picture(b"first")])
        suspect = await claimed(storage)
        assert suspect.job.id == "suspect"
        assert await storage.claim("sd", LONG) is None, "the others wait for the suspect"
        assert (await claimed(storage, model="sdxl")).job.id == "elsewhere"
        assert await storage.give_back(suspect, "the predictor stopped")
        assert (await status_of(storage, "suspect"))[0] == "failed"
        assert (await claimed(storage)).job.id == "later"

    play(make_storage, scenario)


def test_a_waiting_job_can_be_cancelled(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a"))
        found = await storage.cancel("a")

        assert found is not None
        assert found.status == "cancelled"
        assert found.ended_at is not None
        assert await storage.claim("sd", LONG) is None
        assert await storage.cancel("unknown") is None

    play(make_storage, scenario)


def test_a_running_job_can_be_cancelled_and_its_claim_is_void(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a"))
        claim = await claimed(storage)
        with storage.changes.watch("stop:a") as stopped:
            await storage.cancel("a")
            await asyncio.wait_for(stopped.wait(), 30)

        assert not await storage.renew(claim, LONG, 1, 20)
        assert not await storage.finish(claim, [picture(b"late")])
        assert await status_of(storage, "a") == ("cancelled", None)

    play(make_storage, scenario)


def test_a_finished_job_stays_finished(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a"))
        assert await storage.finish(await claimed(storage), [picture(b"one")])
        found = await storage.cancel("a")

        assert found is not None
        assert found.status == "succeeded"

    play(make_storage, scenario)


def test_a_job_that_waits_too_long_expires(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("late", expires_in=0))
        await storage.submit(job("swept", expires_in=0))
        await storage.submit(job("next"))

        assert (await claimed(storage)).job.id == "next", "late jobs are not started"
        await storage.sweep()
        for name in ("late", "swept"):
            # A second sweep may already have deleted the record.
            found = await storage.read(name)
            assert found is None or (found.status, found.error) == ("expired", EXPIRED)

    play(make_storage, scenario)


def test_a_running_job_expires(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a", expires_in=2))
        claim = await claimed(storage)
        while await storage.renew(claim, LONG, 1, 20):
            await storage.sweep()
            await asyncio.sleep(0.01)

        assert await status_of(storage, "a") == ("expired", EXPIRED)

    play(make_storage, scenario)


def test_old_records_are_deleted_with_their_pictures_and_key(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a", expires_in=2, key="k", digest="one"))
        claim = await claimed(storage)
        assert await storage.finish(claim, [picture(b"one")])
        while await storage.read("a"):
            await storage.sweep()
            await asyncio.sleep(0.01)

        assert await storage.picture("a", 0) is None
        assert list(await storage.page(None, None, 10)) == []
        assert (await storage.submit(job("b", key="k", digest="other"))).is_new

    play(make_storage, scenario)


def test_pictures_are_stored_with_what_is_known_about_them(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a"))
        pictures = [picture(b"one"), replace(picture(b""), media_type="")]
        assert await storage.finish(await claimed(storage), pictures, steps=20)
        found = await storage.read("a")

        assert found is not None
        assert (found.step, found.steps, found.accepted_at) == (20, 20, found.started_at)
        assert (found.status, found.error) == ("succeeded", None)
        assert [(one.media_type, one.size) for one in found.pictures] == [("image/png", 3), ("", 0)]
        assert found.pictures[0] == pictures[0].stored()
        assert await storage.picture("a", 0) == b"one"
        assert await storage.picture("a", 2) is None

    play(make_storage, scenario)


def test_the_oldest_pictures_make_room(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        for name in ("a", "b", "c"):
            await storage.submit(job(name))
            assert await storage.finish(await claimed(storage), [picture(name.encode() * 400)])
            # Ends are ordered by a clock of milliseconds.
            await asyncio.sleep(0.005)

        assert await storage.picture("a", 0) is None
        assert await storage.picture("b", 0) == b"b" * 400
        assert await storage.picture("c", 0) == b"c" * 400
        found = await storage.read("a")
        assert found is not None
        assert (found.status, found.has_lost_pictures) == ("succeeded", True)

    play(make_storage, scenario)


def test_a_key_with_the_same_body_names_the_same_job(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        first = await storage.submit(job("a", key="k", digest="one"))
        again = await storage.submit(job("b", key="k", digest="one"))
        other = await storage.submit(job("c", key="k2", digest="one"))

        assert (first.is_new, again.is_new, other.is_new) == (True, False, True)
        assert (again.job.id, other.job.id) == ("a", "c")
        assert await storage.read("b") is None
        with pytest.raises(IdempotencyConflictError):
            await storage.submit(job("d", key="k", digest="other"))

    play(make_storage, scenario)


def test_the_queue_is_bounded_in_jobs(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a"))
        await storage.submit(job("b", model="sdxl"))
        with pytest.raises(QueueFullError, match="2 jobs wait"):
            await storage.submit(job("c"))
        await claimed(storage)
        assert (await storage.submit(job("d"))).is_new

    play(make_storage, scenario, bounds=replace(BOUNDS, queue_length=2))


def test_the_queue_is_bounded_in_bytes(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a", body=b"x" * 60))
        with pytest.raises(QueueFullError, match="no room"):
            await storage.submit(job("b", body=b"x" * 60))
        await storage.cancel("a")
        assert (await storage.submit(job("c", body=b"x" * 60))).is_new
        assert await storage.finish(await claimed(storage), [])
        assert (await storage.submit(job("d", body=b"x" * 60))).is_new

    play(make_storage, scenario, bounds=replace(BOUNDS, queue_bytes=100))


def test_a_list_has_the_newest_first_in_pages(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        for name in ("a", "b", "c", "d"):
            await storage.submit(job(name))
        await storage.cancel("b")
        first = await storage.page(None, None, 2)
        second = await storage.page(None, first[-1].sequence, 2)

        assert [found.id for found in (*first, *second)] == ["d", "c", "b", "a"]
        assert [found.id for found in await storage.page("cancelled", None, 2)] == ["b"]
        assert [found.id for found in await storage.page("queued", None, 9)] == ["d", "c", "a"]
        assert list(await storage.page("failed", None, 9)) == []

    play(make_storage, scenario)


def test_a_change_wakes_up_other_replicas(make_storage: Open) -> None:
    async def scenario(one: Storage, other: Storage) -> None:
        with other.changes.watch("queue:sd") as queued, other.changes.watch("job:a") as changed:
            # A new replica first assumes that all has changed.
            await asyncio.wait_for(_quiet(queued, one), 30)
            queued.clear()
            changed.clear()
            await one.submit(job("a"))
            await asyncio.wait_for(queued.wait(), 30)
            await asyncio.wait_for(changed.wait(), 30)

    async def _quiet(event: asyncio.Event, storage: Storage) -> None:
        """Wait until the replica follows changes."""
        for number in range(1000):
            event.clear()
            await storage.submit(job(f"first-{number}"))
            await storage.cancel(f"first-{number}")
            await asyncio.sleep(0.05)
            if event.is_set():
                return

    play(make_storage, scenario, replicas=2)


def test_the_state_of_a_model(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        for name in ("a", "b", "c", "d"):
            await storage.submit(job(name, priority=9 if name == "d" else 5))
        await storage.submit(job("elsewhere", model="sdxl"))
        assert await storage.finish(await claimed(storage), [])
        await claimed(storage)
        await storage.cancel("b")
        await asyncio.sleep(0.05)
        state = await storage.state("sd")
        other = await storage.state("unused")

        assert (state.queued, state.running) == (1, 1)
        assert state.oldest_seconds >= 0.04
        assert state.ended == {"succeeded": 1, "cancelled": 1}
        assert (other.queued, other.running, other.oldest_seconds) == (0, 0, 0)

    play(make_storage, scenario)


def test_the_wait_is_estimated_from_finished_jobs(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        new = (await storage.submit(job("a"))).job
        assert new.estimated_seconds is None
        claim = await claimed(storage)
        assert await storage.renew(claim, LONG, 0, 20)
        await asyncio.sleep(0.1)
        assert await storage.finish(claim, [])
        first = (await storage.submit(job("b"))).job
        second = (await storage.submit(job("c"))).job

        assert first.estimated_seconds is not None
        assert first.estimated_seconds >= 0.09
        assert second.estimated_seconds == pytest.approx(2 * first.estimated_seconds)

    play(make_storage, scenario)


def test_a_list_has_only_the_jobs_of_its_owner(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        for name, owner in [("a", "alice"), ("b", "bob"), ("c", "alice"), ("d", "")]:
            await storage.submit(job(name, owner=owner))
        claim = await claimed(storage)
        await storage.finish(claim, [picture(b"1")])

        async def listed(status: Any, owner: str) -> list[str]:
            return [found.id for found in await storage.page(status, None, 10, owner)]

        assert claim.job.owner == "alice"
        assert await listed(None, "alice") == ["c", "a"]
        assert await listed("queued", "alice") == ["c"]
        assert await listed("succeeded", "alice") == ["a"]
        assert await listed("succeeded", "bob") == []
        assert await listed(None, "") == ["d", "c", "b", "a"]

    play(make_storage, scenario)


def test_old_records_leave_the_lists_of_their_owner(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(job("a", owner="alice", expires_in=0.05, key="k"))
        await storage.cancel("a")
        while await storage.read("a"):
            await storage.sweep()
            await asyncio.sleep(0.01)

        assert await storage.page(None, None, 10, "alice") == []
        assert await storage.page("cancelled", None, 10, "alice") == []
        assert (await storage.submit(job("b", owner="alice", key="k"))).is_new

    play(make_storage, scenario)


def test_an_idempotency_key_belongs_to_its_owner(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        for owner in ("", "alice", "bob"):
            submitted = await storage.submit(job(f"of {owner}", owner=owner, key="k", digest=owner))
            assert submitted.is_new

        again = await storage.submit(job("again", owner="bob", key="k", digest="bob"))
        assert (again.is_new, again.job.id) == (False, "of bob")

    play(make_storage, scenario)


def test_an_owner_has_a_limit_of_waiting_jobs(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        for name in ("a", "b"):
            await storage.submit(job(name, owner="alice"))
        with pytest.raises(KeyLimitError, match=r"^2 jobs of this key wait"):
            await storage.submit(job("c", owner="alice"))
        await storage.submit(job("d", owner="bob"))
        await storage.submit(job("e"))
        await claimed(storage)
        await storage.submit(job("c", owner="alice"))

    play(make_storage, scenario, bounds=replace(BOUNDS, key_queued_jobs=2))


def test_an_owner_has_a_limit_of_jobs_in_a_minute(make_storage: Open) -> None:
    async def scenario(one: Storage, other: Storage) -> None:
        for number, storage in enumerate((one, other, one)):
            await storage.submit(job(f"a{number}", owner="alice", key=f"{number}"))
        with pytest.raises(KeyLimitError, match=r"^the limit of this key is 3 jobs") as refused:
            await other.submit(job("late", owner="alice"))
        again = await other.submit(job("again", owner="alice", key="2"))
        await other.submit(job("b", owner="bob"))
        for number in range(4):
            await other.submit(job(f"none{number}"))

        # A third of the minute is free after a third of it.
        assert 10 < refused.value.retry_after_seconds <= 20
        assert not again.is_new
        assert await one.read("late") is None

    play(make_storage, scenario, bounds=replace(BOUNDS, key_jobs_per_minute=3), replicas=2)


def test_positions_are_right_across_blocks_of_jobs(make_storage: Open) -> None:
    """SQLite counts waiting jobs by blocks of 256."""

    async def scenario(storage: Storage) -> None:
        count = 600
        await asyncio.gather(*(storage.submit(job(f"{n}")) for n in range(count)))
        await storage.submit(job("urgent", priority=9))
        await storage.submit(job("other model", model="sdxl"))
        for number in range(300):
            await storage.cancel(f"{number}")
        first = await storage.claim("sd", LONG)
        assert first
        assert first.job.id == "urgent"
        await storage.give_back(first, None)

        found = [await storage.read(name) for name in ("urgent", "300", "511", "512", "599")]

        assert [one and one.position for one in found] == [0, 1, 212, 213, 300]
        other = await storage.read("other model")
        assert other and other.position == 0
        assert (await storage.state("sd")).queued == 301

    bounds = replace(BOUNDS, queue_length=1000, queue_bytes=10**6)
    play(make_storage, scenario, bounds=bounds)


def test_calls_at_the_same_time_fail_one_by_one(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        calls = (storage.submit(job(f"{n}", key="same", digest=f"{n}")) for n in range(2))
        more = (storage.submit(job(f"more {n}")) for n in range(5))

        first, second, *others = await asyncio.gather(*calls, *more, return_exceptions=True)

        assert isinstance(first, Submission)
        assert isinstance(second, IdempotencyConflictError)
        assert await storage.read("1") is None
        # One of them has found no room.
        assert [isinstance(one, QueueFullError) for one in others] == [False] * 4 + [True]
        assert (await storage.state("sd")).queued == 5

    play(make_storage, scenario, bounds=replace(BOUNDS, queue_length=5))
