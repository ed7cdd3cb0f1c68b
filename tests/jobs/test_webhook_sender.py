"""When a webhook is sent again, and when it is abandoned."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from jobs.settings import Settings
from jobs.storage import open_storage
from jobs.storage.changes import wait_briefly
from jobs.webhook_sender import WebhookSender, pause_after
from jobs.webhook_signature import read_secrets, signed_headers
from tests.jobs.receiver import SECRET, Receiver
from tests.jobs.test_outbox import hooked


def test_the_signature_of_the_specification() -> None:
    # The example of the reference libraries of Standard Webhooks.
    keys = read_secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    headers = signed_headers(keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)

    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize(
    ("tries", "longest"), [(1, 1.0), (2, 2.0), (5, 16.0), (13, 3600.0), (10_000, 3600.0)]
)
def test_pauses_double_up_to_an_hour_with_jitter(tries: int, longest: float) -> None:
    pauses = {pause_after(tries) for _ in range(100)}

    assert longest / 2 <= min(pauses) < max(pauses) <= longest
    assert len(pauses) > 50


def test_a_webhook_that_fails_for_a_day_is_abandoned(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    settings = Settings.model_validate({"sqlite_path": path, "webhook_secrets": SECRET})

    async def scenario() -> dict[str, int]:
        storage = open_storage(settings)
        await storage.open()
        await storage.submit(hooked("a"))
        await storage.cancel("a")
        with sqlite3.connect(path) as db:
            db.execute("UPDATE deliveries SET created_at = created_at - 86400, url = ?", [url])
        sender = WebhookSender(storage, settings, on_crash=lambda: None)
        sender.start()
        async with asyncio.timeout(30):
            with storage.changes.watch("outbox") as changed:
                while (await storage.webhook_state()).waiting:
                    await wait_briefly(changed, 1)
                    changed.clear()
        await sender.drain()
        ended = (await storage.webhook_state()).ended
        await storage.close()
        return {str(outcome): number for outcome, number in ended.items()}

    with Receiver() as receiver:
        url = receiver.url("/ok")

        assert asyncio.run(scenario()) == {"abandoned": 1}

    assert receiver.messages == [], "the address is not allowed"
