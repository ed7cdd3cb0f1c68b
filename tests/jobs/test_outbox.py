"""The webhooks of a storage, on SQLite and on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from jobs.errors import KeyLimitError, QueueFullError
from jobs.job import Claim, Delivery, NewJob, Webhook
from jobs.storage import Storage
from tests.jobs.storages import BOUNDS, LONG, Open, job, picture, play


def hooked(job_id: str, lane: str = "receiver/0", expires_in: float = LONG) -> NewJob:
    webhook = Webhook(f"https://receiver/{job_id}", lane)
    return replace(job(job_id, expires_in=expires_in), webhook=webhook)


async def started(storage: Storage, new: NewJob) -> Claim:
    await storage.submit(new)
    claim = await storage.claim("sd", LONG)
    assert claim is not None
    assert await storage.renew(claim, LONG, 0, 20)
    return claim


async def claimed(storage: Storage, lease_seconds: float = LONG) -> Delivery:
    delivery = await storage.claim_delivery(lease_seconds)
    assert delivery is not None
    return delivery


async def deliver_all(storage: Storage) -> list[Delivery]:
    found = []
    while delivery := await storage.claim_delivery(LONG):
        assert await storage.end_delivery(delivery, "delivered")
        found.append(delivery)
    return found


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.id for delivery in deliveries]


def test_a_job_is_reported_at_its_start_and_at_its_end(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        claim = await started(storage, hooked("a"))
        [start] = await deliver_all(storage)
        assert await storage.finish(claim, [picture(b"x")], 20)
        [end] = await deliver_all(storage)

        assert (start.id, start.event, start.job.status) == (
            *("msg_a_started", "started", "in_progress"),
        )
        assert start.webhook == Webhook("https://receiver/a", "receiver/0")
        assert (start.job.step, start.job.steps, start.tries) == (0, 20, 0)
        assert (end.id, end.event, end.job.status) == ("msg_a_completed", "completed", "succeeded")
        stored = await storage.read("a")
        assert stored is not None
        assert end.job == replace(
            stored, read_at=end.job.read_at, model_seconds=end.job.model_seconds
        )
        assert end.job.ended_at == pytest.approx(end.job.read_at, abs=0.1)

    play(make_storage, scenario)


def test_a_job_that_ends_before_its_start_is_recorded_reports_both_in_order(
    make_storage: Open,
) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(hooked("a"))
        claim = await storage.claim("sd", LONG)
        assert claim is not None
        assert await storage.finish(claim, [picture(b"x")], 20)
        start, end = await deliver_all(storage)

        assert [start.id, end.id] == ["msg_a_started", "msg_a_completed"]
        assert (start.job.status, start.job.steps) == ("in_progress", 20)

    play(make_storage, scenario)


def test_every_end_is_reported_once(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        claim = await started(storage, hooked("failed", "f/0"))
        assert await storage.fail(claim, "because")
        assert not await storage.fail(claim, "again")
        await storage.submit(hooked("cancelled", "c/0"))
        for _ in range(2):
            await storage.cancel("cancelled")
        await storage.submit(hooked("expired", "e/0", expires_in=0.001))
        await asyncio.sleep(0.01)
        await storage.sweep()
        ended = [one for one in await deliver_all(storage) if one.event == "completed"]
        found = {one.id: (one.job.status, one.job.error is not None) for one in ended}

        assert len(ended) == 3
        assert found == {
            "msg_failed_completed": ("failed", True),
            "msg_cancelled_completed": ("cancelled", False),
            "msg_expired_completed": ("expired", True),
        }

    play(make_storage, scenario)


def test_a_second_try_of_a_job_does_not_report_its_start_again(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        claim = await started(storage, hooked("a"))
        assert ids(await deliver_all(storage)) == ["msg_a_started"]
        assert await storage.give_back(claim, "the predictor died")
        again = await storage.claim("sd", LONG)
        assert again is not None
        assert await storage.renew(again, LONG, 0, 20)
        assert await storage.finish(again, [], 20)

        assert ids(await deliver_all(storage)) == ["msg_a_completed"]

    play(make_storage, scenario)


def test_a_job_without_a_webhook_reports_nothing(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        claim = await started(storage, job("a"))
        assert await storage.finish(claim, [], 20)

        assert await storage.claim_delivery(LONG) is None

    play(make_storage, scenario)


def test_progress_is_reported_after_a_pause_and_the_newest_replaces_the_others(
    make_storage: Open,
) -> None:
    async def scenario(storage: Storage) -> None:
        claim = await started(storage, hooked("a"))
        assert ids(await deliver_all(storage)) == ["msg_a_started"]
        assert await storage.renew(claim, LONG, 1, 20)
        early = await storage.webhook_state()
        for step in (2, 3):
            await asyncio.sleep(0.55)
            assert await storage.renew(claim, LONG, step, 20)
        waiting = await storage.webhook_state()
        [progress] = await deliver_all(storage)
        await asyncio.sleep(0.55)
        assert await storage.renew(claim, LONG, 4, 20)
        assert await storage.finish(claim, [], 20)
        last = await deliver_all(storage)
        state = await storage.webhook_state()

        assert early.waiting in (0, 1), "1 only if this test was paused for half a second"
        assert waiting.waiting == 1
        assert progress.id.startswith("msg_a_progress_")
        assert progress.job.step == 3
        assert ids(last) == ["msg_a_completed"]
        assert state.ended["superseded"] >= 2

    play(make_storage, scenario)


def test_steps_within_the_pause_are_not_reported(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        claim = await started(storage, hooked("a"))
        loop = asyncio.get_running_loop()
        began = loop.time()
        for step in range(1, 20):
            assert await storage.renew(claim, LONG, step, 20)
        most = int((loop.time() - began) / 0.5)

        found = await deliver_all(storage)
        superseded = (await storage.webhook_state()).ended.get("superseded", 0)
        assert len(found) + superseded - 1 <= most

    play(make_storage, scenario)


def test_a_lane_sends_one_webhook_at_a_time_and_others_do_not_wait(make_storage: Open) -> None:
    async def scenario(one: Storage, other: Storage) -> None:
        for name, lane in [("a", "slow/0"), ("b", "slow/0"), ("c", "quick/0")]:
            await one.submit(hooked(name, lane))
            await one.cancel(name)
        slow = await claimed(one)
        quick = await claimed(other)
        assert await other.claim_delivery(LONG) is None
        assert await one.end_delivery(slow, "delivered")
        after = await claimed(other)

        assert [slow.id, quick.id, after.id] == [
            f"msg_{name}_completed" for name in ("a", "c", "b")
        ]

    play(make_storage, scenario, replicas=2)


def test_an_event_does_not_free_a_busy_lane(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        claim = await started(storage, hooked("a"))
        start = await claimed(storage)
        assert await storage.finish(claim, [], 20)
        assert await storage.claim_delivery(LONG) is None
        assert await storage.end_delivery(start, "delivered")

        assert ids(await deliver_all(storage)) == ["msg_a_completed"]

    play(make_storage, scenario)


def test_a_failed_webhook_waits_for_its_pause_and_the_next_of_the_lane_does_not(
    make_storage: Open,
) -> None:
    async def scenario(storage: Storage) -> None:
        for name in ("a", "b"):
            await storage.submit(hooked(name))
            await storage.cancel(name)
        first = await claimed(storage)
        assert await storage.retry_delivery(first, 600)
        assert ids(await deliver_all(storage)) == ["msg_b_completed"]
        state = await storage.webhook_state()

        assert (state.waiting, state.failures) == (1, 1)
        assert state.oldest_seconds >= 0
        assert state.ended == {"delivered": 1}

    play(make_storage, scenario)


def test_a_retry_has_the_same_id_and_content(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(hooked("a"))
        await storage.cancel("a")
        first = await claimed(storage)
        assert await storage.retry_delivery(first, 0)
        second = await claimed(storage)
        assert await storage.retry_delivery(second, 0, is_failure=False)
        third = await claimed(storage)

        assert (second.id, second.job, second.webhook) == (first.id, first.job, first.webhook)
        assert [one.tries for one in (first, second, third)] == [0, 1, 1]
        assert third.age >= 0

    play(make_storage, scenario)


def test_a_webhook_survives_its_sender_and_a_late_outcome_has_no_effect(
    make_storage: Open,
) -> None:
    async def scenario(lost: Storage, other: Storage) -> None:
        await lost.submit(hooked("a"))
        await lost.cancel("a")
        first = await claimed(lost, lease_seconds=0.05)
        second = None
        while second is None:
            second = await other.claim_delivery(LONG)

        assert second.id == first.id
        assert not await lost.end_delivery(first, "delivered")
        assert not await lost.retry_delivery(first, 0)
        assert await other.end_delivery(second, "delivered")
        assert not await other.end_delivery(second, "delivered")
        assert (await other.webhook_state()).ended == {"delivered": 1}

    play(make_storage, scenario, replicas=2)


def test_a_webhook_outlives_the_record_of_its_job(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(hooked("a", expires_in=0.001))
        await storage.cancel("a")
        await asyncio.sleep(0.01)
        await storage.sweep()
        assert await storage.read("a") is None

        assert ids(await deliver_all(storage)) == ["msg_a_completed"]

    play(make_storage, scenario)


def test_a_full_outbox_refuses_jobs_with_a_webhook_only(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(hooked("a"))
        await storage.cancel("a")
        with pytest.raises(QueueFullError, match="max_webhook_queue"):
            await storage.submit(hooked("b"))
        await storage.submit(job("c"))
        await deliver_all(storage)
        await storage.submit(hooked("b"))

    play(make_storage, scenario, bounds=replace(BOUNDS, webhooks=1))


def test_an_event_wakes_up_who_waits_for_it(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(hooked("a"))
        with storage.changes.watch("outbox") as changed:
            await asyncio.sleep(0)
            changed.clear()
            await storage.cancel("a")
            await asyncio.wait_for(changed.wait(), 30)

    play(make_storage, scenario)


def owned(job_id: str) -> NewJob:
    return replace(hooked(job_id), owner="alice")


def test_a_job_that_finds_no_room_for_webhooks_takes_nothing_from_its_owner(
    make_storage: Open,
) -> None:
    async def scenario(storage: Storage) -> None:
        await started(storage, owned("a"))
        with pytest.raises(QueueFullError, match="max_webhook_queue"):
            await storage.submit(owned("b"))
        await deliver_all(storage)
        await storage.submit(owned("c"))
        with pytest.raises(KeyLimitError, match="2 jobs a minute"):
            await storage.submit(owned("d"))

    play(make_storage, scenario, bounds=replace(BOUNDS, webhooks=1, key_jobs_per_minute=2))


def test_a_key_whose_webhooks_wait_leaves_room_for_those_of_others(make_storage: Open) -> None:
    bob, anonymous = (replace(hooked(name), owner=name) for name in ("bob", ""))

    async def scenario(storage: Storage) -> None:
        for name in ("a", "b"):
            await storage.submit(owned(name))
            await storage.cancel(name)
        with pytest.raises(KeyLimitError, match=r"2 webhooks of this key wait \(key_webhooks\)"):
            await storage.submit(owned("c"))
        await storage.submit(replace(job("d"), owner="alice"))
        for new in (
            bob,
            replace(anonymous, id="e"),
            replace(anonymous, id="f"),
            replace(anonymous, id="g"),
        ):
            await storage.submit(new)
            await storage.cancel(new.id)
        with pytest.raises(KeyLimitError):
            await storage.submit(owned("c"))
        late = await claimed(storage)
        assert late.job.owner == "alice"
        assert await storage.retry_delivery(late, 0)
        with pytest.raises(KeyLimitError):
            await storage.submit(owned("c"))
        await deliver_all(storage)
        await storage.submit(owned("c"))

    play(make_storage, scenario, bounds=replace(BOUNDS, key_webhooks=2))


def test_a_replaced_event_does_not_count_towards_the_webhooks_of_its_key(
    make_storage: Open,
) -> None:
    async def scenario(storage: Storage) -> None:
        claim = await started(storage, owned("a"))
        await asyncio.sleep(0.55)
        assert await storage.renew(claim, LONG, 1, 20)
        assert (await storage.webhook_state()).waiting == 2
        assert await storage.finish(claim, [], 20)
        state = await storage.webhook_state()
        assert (state.waiting, state.ended["superseded"]) == (2, 1)
        await storage.submit(owned("b"))

    play(make_storage, scenario, bounds=replace(BOUNDS, key_webhooks=3))


def test_a_job_that_its_owner_may_not_submit_has_no_webhook(make_storage: Open) -> None:
    async def scenario(storage: Storage) -> None:
        await storage.submit(owned("a"))
        with pytest.raises(KeyLimitError, match="key_queued_jobs"):
            await storage.submit(owned("b"))
        assert await storage.cancel("a")
        [end] = await deliver_all(storage)
        # The same identifier, without a webhook.
        await storage.submit(replace(job("b"), owner="alice"))
        assert await storage.cancel("b")

        assert (end.id, end.job.owner) == ("msg_a_completed", "alice")
        assert await deliver_all(storage) == []

    play(make_storage, scenario, bounds=replace(BOUNDS, key_queued_jobs=1))
