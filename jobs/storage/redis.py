"""Jobs in Redis or Valkey, for many replicas."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, cast

from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError, RedisError, ResponseError

from jobs.errors import IdempotencyConflictError, QueueFullError, StorageUnavailableError
from jobs.job import (
    EXPIRED,
    WORKER_LOST,
    Claim,
    Delivery,
    Job,
    NewJob,
    Picture,
    Status,
    WebhookOutcome,
)
from jobs.storage import claim_scripts, outbox_scripts, scripts, upload_scripts
from jobs.storage.batches import Batches
from jobs.storage.interface import (
    GRACE_SECONDS,
    NEWEST_SHARE,
    OUTAGE_SECONDS,
    SWEEP_SIZE,
    WEBHOOKS_FULL,
    WEBHOOKS_RETRY_SECONDS,
    Bounds,
    ModelState,
    Storage,
    Submission,
    WebhookState,
    queued_limit,
    rate_limit,
    webhook_limit,
)
from jobs.storage.redis_client import redis_client
from jobs.storage.redis_records import delivery_of, job_of, pairs_of

logger = logging.getLogger(__name__)

# A script and its arguments.
_Call = tuple[AsyncScript, list[str | bytes | float]]

_PREFIX = "jobs:"
_CHANNEL = f"{_PREFIX}changes"
_RECONNECT_SECONDS = 0.5
# A call with more bytes does not hold up others.
_SMALL_BYTES = 65_536
# How long to wait for a message before the connection is checked.
_SILENCE_SECONDS = 15.0


class RedisStorage(Storage):
    """See ``Storage``."""

    def __init__(self, url: str, bounds: Bounds) -> None:
        """Connect later, on first use.

        Raises:
            StartError: the URL is not valid; the message does not contain it.
        """
        super().__init__(bounds)
        self._redis = redis_client(url)
        register = self._redis.register_script
        self._submit = register(scripts.SUBMIT)
        self._read = register(scripts.READ)
        self._page = register(scripts.PAGE)
        self._claim = register(claim_scripts.CLAIM)
        self._renew = register(claim_scripts.RENEW)
        self._note_preview = register(claim_scripts.NOTE_PREVIEW)
        self._give_back = register(claim_scripts.GIVE_BACK)
        self._finish = register(claim_scripts.FINISH)
        self._fail = register(claim_scripts.FAIL)
        self._cancel = register(scripts.CANCEL)
        self._state = register(scripts.STATE)
        self._sweep = register(scripts.SWEEP)
        self._expired_uploads = register(upload_scripts.EXPIRED_UPLOADS)
        self._release_uploads = register(upload_scripts.RELEASE_UPLOADS)
        self._claim_delivery = register(outbox_scripts.CLAIM_DELIVERY)
        self._end_delivery = register(outbox_scripts.END_DELIVERY)
        self._retry_delivery = register(outbox_scripts.RETRY_DELIVERY)
        self._webhook_state = register(outbox_scripts.WEBHOOK_STATE)
        self._calls = Batches[_Call](self._run_together)
        self._follower: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Follow the changes of all replicas, as soon as Redis answers."""
        self._follower = asyncio.create_task(self._follow())

    async def close(self) -> None:
        if self._follower:
            self._follower.cancel()
            with suppress(asyncio.CancelledError):
                await self._follower
        await self._redis.aclose()

    async def check(self) -> None:
        await self._get("sequence")

    async def submit(self, new: NewJob) -> Submission:
        url, lane = (new.webhook.url, new.webhook.lane) if new.webhook else ("", "")
        outcome, *rest = await self._run(
            self._submit,
            *(new.id, new.model, new.priority, "" if new.seed is None else new.seed),
            *(_milliseconds(new.expires_in), new.body, new.idempotency_key, new.digest),
            *(self.bounds.queue_length, self.bounds.queue_bytes, new.owner),
            *(self.bounds.key_queued_jobs, 1000 * self.bounds.key_job_seconds),
            *(url, lane, self.bounds.webhooks, self.bounds.key_webhooks),
        )
        match outcome:
            case b"conflict":
                raise IdempotencyConflictError("the Idempotency-Key was used with another body")
            case b"webhooks":
                raise QueueFullError(WEBHOOKS_FULL, WEBHOOKS_RETRY_SECONDS)
            case b"own_webhooks":
                raise webhook_limit(rest[0])
            case b"owner":
                raise queued_limit(rest[0], float(rest[1]) / 1000 or 5.0)
            case b"fast":
                raise rate_limit(self.bounds, rest[0] / 1000)
            case b"many" | b"large":
                seconds = float(rest[1]) / 1000 or 5.0
                if outcome == b"many":
                    raise QueueFullError(f"{rest[0]} jobs wait, and the queue is full", seconds)
                raise QueueFullError("the bodies of the waiting jobs leave no room", seconds)
        return Submission(job_of(rest[0]), is_new=outcome == b"new")

    async def read(self, job_id: str) -> Job | None:
        found = await self._run(self._read, job_id)
        return job_of(found) if found else None

    async def page(
        self, status: Status | None, before: int | None, count: int, owner: str = ""
    ) -> Sequence[Job]:
        key = f"status:{status}" if status else "all"
        if owner:
            key = f"owner:{owner}:{key}"
        last = "+inf" if before is None else f"({before}"
        return [job_of(found) for found in await self._run(self._page, key, last, count)]

    async def claim(self, model: str, lease_seconds: float) -> Claim | None:
        token = secrets.token_hex(16)
        lease = _milliseconds(lease_seconds)
        found = await self._run(self._claim, model, token, lease, self.bounds.tries, EXPIRED)
        return Claim(job_of(found[0]), token, found[1]) if found else None

    async def renew(self, claim: Claim, lease_seconds: float, step: int, steps: int) -> bool:
        lease = _milliseconds(lease_seconds)
        return bool(
            await self._run(self._renew, claim.job.id, claim.token, lease, str(step), str(steps))
        )

    async def note_preview(self, claim: Claim, event: bytes) -> bool:
        return bool(await self._run(self._note_preview, claim.job.id, claim.token, event))

    async def preview(self, job_id: str) -> bytes | None:
        return await self._get(f"preview:{job_id}")

    async def give_back(self, claim: Claim, reason: str | None) -> bool:
        tries = self.bounds.tries
        return bool(
            await self._run(self._give_back, claim.job.id, claim.token, tries, reason or "")
        )

    async def finish(self, claim: Claim, pictures: Sequence[Picture], steps: int = 0) -> bool:
        stored = json.dumps([asdict(picture.stored()) for picture in pictures])
        uploaded = int(any(picture.uploaded for picture in pictures))
        return bool(
            await self._run(
                self._finish,
                *(claim.job.id, claim.token, self.bounds.stored_bytes, NEWEST_SHARE, stored, steps),
                uploaded,
                *(picture.content for picture in pictures),
            )
        )

    async def fail(self, claim: Claim, reason: str) -> bool:
        return bool(await self._run(self._fail, claim.job.id, claim.token, reason))

    async def cancel(self, job_id: str) -> Job | None:
        found = await self._run(self._cancel, job_id)
        return job_of(found) if found else None

    async def picture(self, job_id: str, number: int) -> bytes | None:
        return await self._get(f"picture:{job_id}:{number}")

    async def state(self, model: str) -> ModelState:
        queued, running, age, ended = await self._run(self._state, model)
        counts = {cast("Status", name): int(count) for name, count in pairs_of(ended).items()}
        return ModelState(queued, running, age / 1000, counts)

    async def sweep(self) -> None:
        tries = self.bounds.tries
        outage = (_milliseconds(OUTAGE_SECONDS), _milliseconds(GRACE_SECONDS))
        await self._run(self._sweep, tries, WORKER_LOST, EXPIRED, SWEEP_SIZE, *outage)

    async def expired_uploads(self) -> Sequence[Job]:
        return [job_of(found) for found in await self._run(self._expired_uploads, SWEEP_SIZE)]

    async def release_uploads(self, job_ids: Sequence[str]) -> None:
        await self._run(self._release_uploads, *job_ids)

    async def claim_delivery(self, lease_seconds: float) -> Delivery | None:
        token = secrets.token_hex(16)
        lease = _milliseconds(lease_seconds)
        found = await self._run(self._claim_delivery, token, lease)
        return delivery_of(found, token) if found else None

    async def end_delivery(self, delivery: Delivery, outcome: WebhookOutcome) -> bool:
        lane = delivery.webhook.lane
        return bool(await self._run(self._end_delivery, delivery.id, lane, delivery.token, outcome))

    async def retry_delivery(
        self, delivery: Delivery, seconds: float, *, is_failure: bool = True
    ) -> bool:
        lane, pause = delivery.webhook.lane, _milliseconds(seconds)
        return bool(
            await self._run(
                self._retry_delivery, delivery.id, lane, delivery.token, pause, int(is_failure)
            )
        )

    async def webhook_state(self) -> WebhookState:
        waiting, age, flat = await self._run(self._webhook_state)
        counts = {name: int(count) for name, count in pairs_of(flat).items()}
        failures = counts.pop("failures", 0)
        ended = {cast("WebhookOutcome", name): count for name, count in counts.items()}
        return WebhookState(waiting, age / 1000, ended, failures)

    async def _get(self, key: str) -> bytes | None:
        try:
            return cast("bytes | None", await self._redis.get(_PREFIX + key))
        except (RedisError, OSError) as error:
            raise _unavailable(error) from None

    async def _run(self, script: AsyncScript, *arguments: str | bytes | float) -> Any:
        call = (script, [_PREFIX, *arguments])
        size = sum(len(one) for one in arguments if isinstance(one, str | bytes))
        try:
            return await (self._calls.call(call) if size <= _SMALL_BYTES else script(args=call[1]))
        except (RedisError, OSError) as error:
            raise _unavailable(error) from None

    async def _run_together(self, calls: Sequence[_Call]) -> Sequence[Any]:
        """One round trip for all calls; Redis does not know the scripts after its restart."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for script, arguments in calls:
                pipeline.evalsha(script.sha, 0, *arguments)
            outcomes = await pipeline.execute(raise_on_error=False)
        for index, (script, arguments) in enumerate(calls):
            if isinstance(outcomes[index], NoScriptError):
                try:
                    outcomes[index] = await script(args=arguments)
                except ResponseError as error:  # of this call alone
                    outcomes[index] = error
        return outcomes

    async def _follow(self) -> None:
        """Pass on the changes of all replicas; after a lost connection, assume that all changed."""
        is_lost = False
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as subscription:
                    await subscription.subscribe(_CHANNEL)
                    self.changes.notify_all()
                    if is_lost:
                        logger.info("redis_url: answers again")
                    is_lost = False
                    while True:
                        message = await subscription.get_message(timeout=_SILENCE_SECONDS)
                        if message:
                            self.changes.notify(message["data"].decode())
            except (RedisError, OSError) as error:
                if not is_lost:
                    logger.error("redis_url: does not answer: %s", error)  # noqa: TRY400
                is_lost = True
                await asyncio.sleep(_RECONNECT_SECONDS)


def _unavailable(error: Exception) -> StorageUnavailableError:
    logger.warning("redis_url: a call failed: %s", error)
    return StorageUnavailableError("the storage of the jobs does not answer")


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
