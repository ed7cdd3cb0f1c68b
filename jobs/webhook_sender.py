"""Sends the webhooks in the storage, and retries those that fail for a day."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus

from jobs.api.documents import document_of
from jobs.errors import StorageUnavailableError
from jobs.job import Delivery
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.storage.changes import wait_briefly
from jobs.webhook_client import WebhookClient, WebhookFailedError
from jobs.webhook_signature import signed_headers

logger = logging.getLogger(__name__)

# Of one process, over all receivers.
_MOST_AT_ONCE = 128
# Changes wake the sender at once; this is for retries, and for changes that get lost.
_POLL_SECONDS = 1.0
# Pauses between tries: doubled, up to an hour, for a day.
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 3600.0
_RETRY_SECONDS = 86_400.0
# After SIGTERM; a request that takes longer is sent again by another process.
_DRAIN_SECONDS = 2.0


def payload_of(delivery: Delivery) -> bytes:
    """The body of a webhook, the same at each try."""
    at = datetime.fromtimestamp(delivery.job.read_at, UTC).isoformat(timespec="milliseconds")
    document = {
        "type": f"job.{delivery.event}",
        "timestamp": at,
        "data": document_of(delivery.job),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def pause_after(tries: int) -> float:
    """The seconds to wait after ``tries`` failures; random, so that retries do not coincide."""
    longest = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(tries - 1, 32), _LONGEST_PAUSE_SECONDS)
    return longest * random.uniform(0.5, 1)  # noqa: S311


class WebhookSender:
    """Claims webhooks and sends them, each in a task of its own."""

    def __init__(self, storage: Storage, settings: Settings, on_crash: Callable[[], None]) -> None:
        """``on_crash`` is called if the sender ends by a bug."""
        self._storage = storage
        self._keys = settings.webhook_keys
        self._client = WebhookClient(settings.allowed_networks, settings.webhook_timeout_seconds)
        # The time to respond, and as much to store the outcome.
        self._lease_seconds = 2 * settings.webhook_timeout_seconds + _DRAIN_SECONDS
        self._on_crash = on_crash
        self._sending: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def start(self) -> None:
        """Begin to send on the event loop; without secrets nothing can be signed."""
        if self._keys:
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(self._report)

    async def drain(self) -> None:
        """Stop, and give requests in flight a moment to end."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=_DRAIN_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._client.close()

    async def _run(self) -> None:
        with self._storage.changes.watch("outbox") as wake:
            self._wake = wake
            while True:
                wake.clear()
                try:
                    await self._claim_deliveries()
                except StorageUnavailableError:
                    logger.debug("webhooks: the storage does not answer")
                await wait_briefly(wake, _POLL_SECONDS)

    async def _claim_deliveries(self) -> None:
        while len(self._sending) < _MOST_AT_ONCE:
            delivery = await self._storage.claim_delivery(self._lease_seconds)
            if delivery is None:
                return
            task = asyncio.create_task(self._deliver(delivery))
            self._sending.add(task)
            task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("a webhook failed: internal error (a bug)", exc_info=error)
        self._wake.set()

    async def _deliver(self, delivery: Delivery) -> None:
        """Send a webhook once, and store what follows; a lost outcome means another try."""
        try:
            store = await self._outcome(delivery)
        except asyncio.CancelledError:
            store = partial(self._storage.retry_delivery, delivery, 0.0, is_failure=False)
        try:
            if not await store():
                logger.info("webhook %s: sent elsewhere", delivery.id)
        except StorageUnavailableError:
            logger.warning("webhook %s: the outcome is not stored", delivery.id)

    async def _outcome(self, delivery: Delivery) -> Callable[[], Awaitable[bool]]:
        end, retry = self._storage.end_delivery, self._storage.retry_delivery
        body = payload_of(delivery)
        headers = signed_headers(self._keys, delivery.id, int(time.time()), body)
        headers |= {"content-type": "application/json", "user-agent": "stable-diffusion-jobs"}
        try:
            status = await self._client.send(delivery.webhook.url, headers, body)
        except WebhookFailedError as error:
            reason = str(error)
        else:
            if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
                return partial(end, delivery, "delivered")
            if status == HTTPStatus.GONE:
                return partial(end, delivery, "gone")
            reason = f"the receiver responded with status {status}"
        pause = pause_after(delivery.tries + 1)
        if delivery.age + pause > _RETRY_SECONDS:
            logger.warning("webhook %s: abandoned after a day: %s", delivery.id, reason)
            return partial(end, delivery, "abandoned")
        logger.info("webhook %s: retried in %.1f s: %s", delivery.id, pause, reason)
        return partial(retry, delivery, pause)

    def _report(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            logger.critical("the sender has stopped: internal error (a bug)", exc_info=error)
            self._on_crash()
