"""Clients that submit jobs and wait for them, whichever replica responds."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import httpx

# A bound that only a failure reaches.
PATIENCE_SECONDS = 240.0
_CLIENTS = 8
# Jobs that one client submits before it waits for the first of them.
_DEPTH = 8


@dataclass(frozen=True)
class Order:
    """A job to submit; ``key`` is its Idempotency-Key. A client can cancel it right away."""

    key: str
    body: dict[str, Any]
    is_cancelled: bool = False


class Clients:
    """Client threads of all replicas; they repeat a request until a replica responds.

    ``ended`` has the document of each job that has ended, by key.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self.ended: dict[str, dict[str, Any]] = {}
        self._urls = urls
        self._client = httpx.Client(timeout=15)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def run(self, orders: Sequence[Order]) -> None:
        """Submit all jobs, and wait until each has ended."""
        batches = iter([orders[start : start + _DEPTH] for start in range(0, len(orders), _DEPTH)])
        lock = threading.Lock()

        def client() -> None:
            while True:
                with lock:
                    batch = next(batches, None)
                if batch is None:
                    return
                jobs = [self.submit(order) for order in batch]
                for order, job in zip(batch, jobs, strict=True):
                    self.ended[order.key] = self._wait_for_end(job)

        with ThreadPoolExecutor(_CLIENTS) as pool:
            for done in [pool.submit(client) for _ in range(_CLIENTS)]:
                done.result()

    def submit(self, order: Order) -> dict[str, Any]:
        """Submit a job; returns its document."""
        headers = {"idempotency-key": order.key}
        job = self.request("POST", "/v1/jobs", json=order.body, headers=headers).json()
        if order.is_cancelled:
            self.request("DELETE", f"/v1/jobs/{job['id']}")
        return dict(job)

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send a request to any replica until one responds and its storage answers."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            url = random.choice(self._urls) + path
            try:
                response = self._client.request(method, url, **arguments)
            except httpx.TransportError as error:
                reason = repr(error)
            else:
                if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    assert response.is_success, f"{method} {url}: {response.text}"
                    return response
                reason = response.text
            assert time.monotonic() < deadline, f"{method} {url}: {reason}"
            time.sleep(0.05)

    def listed(self) -> Iterator[dict[str, Any]]:
        """The documents of all jobs."""
        cursor = ""
        while cursor is not None:
            page = self.request("GET", f"/v1/jobs?limit=100{cursor and f'&cursor={cursor}'}").json()
            yield from page["jobs"]
            cursor = page["next_cursor"]

    def _wait_for_end(self, job: dict[str, Any]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while job["ended_at"] is None:
            assert time.monotonic() < deadline, job
            path = f"/v1/jobs/{job['id']}"
            job = self.request("GET", path, headers={"prefer": "wait=5"}).json()
        return job
