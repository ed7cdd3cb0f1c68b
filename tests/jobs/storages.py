"""Both storages, for tests that run on each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from jobs.job import NewJob, Picture
from jobs.storage import Bounds, Storage

Open = Callable[[Bounds], Storage]
BOUNDS = Bounds(queue_length=100, queue_bytes=10_000, stored_bytes=1_000, tries=3)
LONG = 600.0


def play(
    make_storage: Open,
    scenario: Callable[..., Awaitable[None]],
    *,
    bounds: Bounds = BOUNDS,
    replicas: int = 1,
) -> None:
    """Run a scenario with an open storage for each replica."""

    async def run() -> None:
        storages = [make_storage(bounds) for _ in range(replicas)]
        for storage in storages:
            await storage.open()
        try:
            await scenario(*storages)
        finally:
            for storage in storages:
                await storage.close()

    asyncio.run(run())


def job(
    job_id: str,
    *,
    priority: int = 5,
    expires_in: float = LONG,
    body: bytes = b'{"prompt": "a red star"}',
    key: str = "",
    digest: str = "",
    model: str = "sd",
    owner: str = "",
) -> NewJob:
    return NewJob(job_id, model, priority, expires_in, body, 7, key, digest, owner)


def picture(content: bytes) -> Picture:
    return Picture("image/png", content, {"seed": 7})
