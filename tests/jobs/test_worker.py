"""What a worker makes of each end of a call, and how many jobs it gives to a predictor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.jobs_process import JobsServer
from tests.jobs.scripted_predictor import ScriptedPredictor
from tests.waiting import wait_until


@pytest.fixture
def server(predictor: ScriptedPredictor, tmp_path: Path) -> Iterator[JobsServer]:
    """A process in front of the scripted predictor."""
    path = tmp_path / "jobs.sqlite3"
    with JobsServer.running(tmp_path / "log", predictor.url, sqlite_path=path) as running:
        yield running


def test_a_predictor_that_shuts_down_during_a_job_costs_no_try(
    storage_flags: dict[str, str], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    with JobsServer.running(tmp_path / "log", predictor.url, **storage_flags) as server:
        job = server.wait_for_status(server.submit({"prompt": "stop"})["id"], "succeeded")

    assert predictor.prompts() == ["stop", "stop"]
    assert job["tries"] == 1


def test_a_request_that_is_rejected_late_is_not_tried_again(
    server: JobsServer, predictor: ScriptedPredictor
) -> None:
    job = server.wait_for_status(server.submit({"prompt": "reject"})["id"], "failed")

    assert job["error"] == "prompt: refused by block_list"
    assert predictor.prompts() == ["reject"]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("drop", "the connection to the predictor ended before the job was done"),
        ("gateway", "the predictor stopped before it responded"),
    ],
)
def test_a_job_that_stops_the_predictor_before_it_responds_fails_after_its_tries(
    server: JobsServer, predictor: ScriptedPredictor, prompt: str, reason: str
) -> None:
    job = server.wait_for_status(server.submit({"prompt": prompt})["id"], "failed")

    assert (job["tries"], job["error"]) == (3, reason)
    assert predictor.prompts() == [prompt] * 3


def test_jobs_that_end_are_replaced_while_one_replica_is_full(
    server: JobsServer, predictor: ScriptedPredictor
) -> None:
    holding = [f"hold {number}" for number in range(4)]
    for prompt in holding:
        server.wait_for_status(server.submit({"prompt": prompt})["id"], "in_progress")
    server.submit({"prompt": "full"})
    wait_until(lambda: "full" in predictor.prompts())
    jobs = [server.submit({"prompt": f"star {number}"}) for number in range(3)]
    for prompt in holding[:2]:
        predictor.finish(prompt)
    for job in jobs:
        server.wait_for_status(job["id"], "succeeded")

    assert predictor.most_at_once <= 5, "it works on four jobs, so it gets no more"
