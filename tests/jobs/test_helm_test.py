"""The script of ``helm test`` requests a picture from the real jobs program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chart.rendering import case, render
from tests.chart.test_helm_test import png, run_test
from tests.jobs.jobs_process import JobsServer
from tests.jobs.scripted_predictor import ScriptedPredictor


class Painter(ScriptedPredictor):
    """Makes pictures that decode."""

    def picture_of(self, body: dict[str, Any]) -> bytes:
        return png()


@pytest.fixture
def predictor() -> Iterator[ScriptedPredictor]:
    with Painter() as running:
        yield running


@pytest.fixture
def server(predictor: ScriptedPredictor, tmp_path: Path) -> Iterator[JobsServer]:
    settings = {"sqlite_path": tmp_path / "jobs.sqlite3", "max_wait_seconds": 1}
    with JobsServer.running(tmp_path / "log", predictor.url, **settings) as running:
        yield running


def test_a_job_whose_picture_decodes_is_a_success(
    predictor: ScriptedPredictor, server: JobsServer
) -> None:
    done = run_test(f"{server.url}/v1/jobs")

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{server.url}/v1/jobs: a PNG of 3 x 2\n"
    assert predictor.prompts() == ["a red circle on a blue background"]


def test_a_job_that_fails_is_a_failure(predictor: ScriptedPredictor, server: JobsServer) -> None:
    done = run_test(f"{server.url}/v1/jobs", prompt="invalid on purpose")

    assert done.returncode == 1
    assert "the job is failed: width: 7 is not a multiple of 8" in done.stderr


def test_a_job_that_does_not_end_in_time_is_a_failure_with_its_status(
    predictor: ScriptedPredictor, server: JobsServer
) -> None:
    done = run_test(f"{server.url}/v1/jobs", prompt="hold it", seconds="1")
    jobs = server.request("GET", "/v1/jobs").json()["jobs"]
    predictor.release()

    assert done.returncode == 1
    assert "no picture in time" in done.stderr
    assert "the job is " in done.stderr
    assert len(jobs) == 1, "a retry gets the same job"


def test_the_pod_requests_a_picture_from_the_program_at_its_service() -> None:
    rendered = case("jobs")
    (pod,) = rendered.hooks
    *_, url = pod["spec"]["containers"][0]["args"]
    (port,) = rendered.named("Service", "stable-diffusion-jobs")["spec"]["ports"]

    assert url == f"http://stable-diffusion-jobs.pictures.svc:{port['port']}/v1/jobs"


def test_a_restricted_program_admits_the_pod_and_its_notes_ask_for_a_key() -> None:
    peer = {"namespaceSelector": {"matchLabels": {"team": "pictures"}}}
    jobs = {"enabled": True, "apiKeys": {"secretName": "callers"}}
    rendered = render({"jobs": jobs, "networkPolicy": {"jobsFrom": [peer]}})
    (pod,) = rendered.hooks
    policy = rendered.named("NetworkPolicy", "stable-diffusion-jobs")["spec"]
    selectors = [one["podSelector"] for one in policy["ingress"][0]["from"] if "podSelector" in one]

    assert [
        one for one in selectors if one["matchLabels"].items() <= pod["metadata"]["labels"].items()
    ]
    assert "It needs a key: set test.apiKey.secretName." in rendered.notes
