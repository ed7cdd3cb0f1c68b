"""When a refused job is sent to the predictor again."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from jobs import attempt as attempt_module
from jobs.attempt import Attempt
from jobs.job import Job
from jobs.predictor_client import PredictorClient
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.storage.sqlite import SQLiteStorage
from tests.jobs.storages import LONG, job, play

RESULT = (
    b'event: progress\ndata: {"step":1,"steps":1}\n\n'
    b'event: result\ndata: {"predictions":[{"image":{"format":"png","b64":"YQ=="},"seed":7}]}\n\n'
)


class Predictor:
    """Answers each call with the next of the given responses; None refuses the connection."""

    def __init__(self, *answers: httpx.Response | None) -> None:
        self._answers = list(answers)
        self.called = asyncio.Event()

    def respond(self, _: httpx.Request) -> httpx.Response:
        self.called.set()
        answer = self._answers.pop(0)
        if answer is None:
            raise httpx.ConnectError("refused")
        return answer


def ended(folder: Path, *answers: httpx.Response | None, calls_again: bool = False) -> Job:
    """The record after a try; ``calls_again`` ends its wait after the first call."""
    found: list[Job | None] = []

    async def scenario(storage: Storage) -> None:
        predictor, client = Predictor(*answers), PredictorClient(Settings())
        client._client = httpx.AsyncClient(transport=httpx.MockTransport(predictor.respond))
        await storage.submit(job("a"))
        claim = await storage.claim("sd", LONG)
        assert claim
        attempt = Attempt(
            claim, storage, client, LONG, on_accepted=lambda: None, on_refused=lambda: None
        )
        task = asyncio.create_task(attempt.run())
        await asyncio.wait_for(predictor.called.wait(), 30)
        if calls_again:
            attempt.call_again()
        await asyncio.wait_for(task, 30)
        await client.close()
        found.append(await storage.read("a"))

    play(lambda bounds: SQLiteStorage(folder / "jobs", bounds), scenario)
    assert found[0]
    return found[0]


def test_a_job_is_sent_again_once_the_predictor_has_taken_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_module, "_FIRST_WAIT_SECONDS", LONG)
    answers = (None, httpx.Response(200, content=RESULT))

    assert ended(tmp_path, *answers, calls_again=True).status == "succeeded"


def test_a_predictor_cannot_demand_an_endless_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_module, "_LONGEST_RETRY_SECONDS", 0.01)
    busy = httpx.Response(429, json={"error": "busy"}, headers={"retry-after": "9" * 400})

    assert ended(tmp_path, busy, httpx.Response(200, content=RESULT)).status == "succeeded"


def test_the_next_try_is_not_sent_to_a_predictor_that_is_just_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_module, "_PAUSE_SECONDS", 0.3)
    started = time.monotonic()
    after = ended(tmp_path, httpx.Response(500, json={"error": "x"}))

    assert (after.status, after.tries) == ("queued", 1)
    assert time.monotonic() - started >= 0.3
