"""What the scripts of the Redis storage return, as the types of ``jobs.job``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from jobs.job import Delivery, Job, Status, StoredPicture, Webhook, WebhookEvent


def job_of(found: Sequence[Any]) -> Job:
    """A record from what ``describe`` returns."""
    flat, position, running, seconds, now = found
    values = pairs_of(flat)
    numbers = ("sequence", "priority", "tries", "step", "steps")
    return Job(
        id=values["id"],
        model=values["model"],
        status=cast("Status", values["status"]),
        seed=int(values["seed"]) if values["seed"] else None,
        **{name: int(values[name]) for name in numbers},
        created_at=int(values["created_at"]) / 1000,
        expires_in=int(values["expires_in"]) / 1000,
        expires_at=int(values["expires_at"]) / 1000,
        read_at=now / 1000,
        started_at=_seconds(values, "started_at"),
        accepted_at=_seconds(values, "accepted_at"),
        ended_at=_seconds(values, "ended_at"),
        error=values.get("error"),
        owner=values["owner"],
        pictures=tuple(StoredPicture(**one) for one in json.loads(values.get("pictures", "[]"))),
        has_lost_pictures="has_lost_pictures" in values,
        position=position if position >= 0 else None,
        model_running=running,
        model_seconds=float(seconds) / 1000,
    )


def delivery_of(found: Sequence[Any], token: str) -> Delivery:
    message, event, url, lane, tries, age, record = found
    fields, *rest = json.loads(record)
    return Delivery(
        id=message.decode(),
        event=cast("WebhookEvent", event.decode()),
        webhook=Webhook(url.decode(), lane.decode()),
        job=job_of([[one.encode() for one in fields], *rest]),
        tries=int(tries),
        age=age / 1000,
        token=token,
    )


def pairs_of(flat: Sequence[bytes]) -> dict[str, str]:
    """A hash from the flat list that HGETALL returns in a script."""
    texts = [one.decode() for one in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _seconds(values: Mapping[str, str], name: str) -> float | None:
    return int(values[name]) / 1000 if name in values else None
