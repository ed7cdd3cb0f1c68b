"""Jobs in front of the real predictor with the demo model."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from demo.run import free_port
from tests.jobs.jobs_process import JobsServer
from tests.serving import LONG, PREDICT, Server
from tests.waiting import wait_until

CIRCLE: dict[str, Any] = {"prompt": "a red circle on a blue background", "steps": 4}


@pytest.fixture(scope="module")
def jobs(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobsServer]:
    """A process in front of the shared predictor."""
    folder = tmp_path_factory.mktemp("jobs")
    path = folder / "jobs.sqlite3"
    with JobsServer.running(folder / "log", server.url, sqlite_path=path) as running:
        yield running


def pixels(content: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.int16)


def test_the_picture_is_that_of_the_predictor_with_the_same_seed(
    server: Server, jobs: JobsServer
) -> None:
    job = jobs.wait_for_status(jobs.submit(CIRCLE)["id"], "succeeded")
    picture = jobs.request("GET", job["pictures"][0]["url"])
    direct = httpx.post(server.url + PREDICT, json=CIRCLE | {"seed": job["seed"]}, timeout=60)
    other = httpx.post(server.url + PREDICT, json=CIRCLE | {"seed": job["seed"] + 1}, timeout=60)

    assert direct.headers["x-seed"] == str(job["seed"])
    assert picture.headers["content-type"] == "image/png"
    # Sums over batches of different sizes round differently.
    assert np.abs(pixels(picture.content) - pixels(direct.content)).max() <= 2
    assert np.abs(pixels(picture.content) - pixels(other.content)).max() > 2
    assert job["progress"] == {"step": 4, "steps": 4}
    assert job["pictures"][0]["num_inference_steps"] == 4
    assert server.wait_for_log(re.escape(job["id"])), "the predictor's log has the id"


def test_previews_are_sent_while_the_job_runs(jobs: JobsServer) -> None:
    body = CIRCLE | {"steps": 150, "previews": 8}
    job = jobs.submit(body)
    text = jobs.request("GET", f"/v1/jobs/{job['id']}/events").text
    events = [event.split("\ndata: ") for event in text.strip().split("\n\n")]
    previews = [json.loads(data) for name, data in events if name == "event: preview"]

    assert previews, "the caller is alone, so the predictor sends some of them"
    assert previews[0]["image"]["format"] == "jpeg"
    assert json.loads(events[-1][1])["status"] == "succeeded"


def test_instances_get_a_seed_each(server: Server, jobs: JobsServer) -> None:
    body = {"instances": [CIRCLE, CIRCLE | {"seed": 7}, CIRCLE | {"output_format": "webp"}]}
    job = jobs.wait_for_status(jobs.submit(body)["id"], "succeeded")
    seeds = [picture["seed"] for picture in job["pictures"]]

    assert seeds[0] == job["seed"]
    assert seeds[1] == 7
    assert len(set(seeds)) == 3
    types = [picture["content_type"] for picture in job["pictures"]]
    assert types == ["image/png", "image/png", "image/webp"]


def test_an_invalid_field_fails_with_the_sentence_of_the_predictor(jobs: JobsServer) -> None:
    job = jobs.wait_for_status(jobs.submit(CIRCLE | {"widht": 64})["id"], "failed")

    assert job["error"] == "widht: unknown parameter; did you mean 'width'?"
    assert job["tries"] == 1


def test_a_cancelled_job_stops_the_predictor(server: Server, jobs: JobsServer) -> None:
    job = jobs.submit(LONG)
    running = jobs.wait_for_status(job["id"], "in_progress")
    cancelled = jobs.request("DELETE", f"/v1/jobs/{job['id']}").json()

    def is_idle() -> bool:
        text = httpx.get(server.url + "/metrics", timeout=60).text
        return bool(re.search(r'diffusion_pictures\{[^}]*state="in_flight"\} 0\.0', text))

    wait_until(is_idle)
    assert running["progress"]["steps"] == 150 * 12
    assert cancelled["status"] == "cancelled"


def test_jobs_wait_for_the_predictor_and_survive_its_death(
    demo_model: Path, tmp_path: Path
) -> None:
    port = free_port()
    slow = CIRCLE | {"steps": 150}
    with JobsServer.running(
        tmp_path / "log", f"http://127.0.0.1:{port}", sqlite_path=tmp_path / "jobs.sqlite3"
    ) as jobs:
        submitted = [jobs.submit(body) for body in (slow, CIRCLE)]
        with Server.started(demo_model, tmp_path / "one.log", http_port=port) as predictor:
            wait_until(lambda: jobs.job(submitted[0]["id"])["progress"]["step"] > 0, 120)
            predictor.process.kill()
        with Server.started(demo_model, tmp_path / "two.log", http_port=port):
            ended = [jobs.wait_for_status(job["id"], "succeeded", seconds=120) for job in submitted]

    assert ended[0]["tries"] == 2
    assert [job["seed"] for job in ended] == [job["seed"] for job in submitted]


def test_a_predictor_that_shuts_down_returns_the_job_without_a_try(
    demo_model: Path, tmp_path: Path
) -> None:
    with (
        Server.started(demo_model, tmp_path / "log", shutdown_seconds=1) as predictor,
        JobsServer.running(
            tmp_path / "jobs.log", predictor.url, sqlite_path=tmp_path / "jobs.sqlite3"
        ) as jobs,
    ):
        job = jobs.submit(LONG)
        jobs.wait_for_status(job["id"], "in_progress", seconds=120)
        # The second signal ends the wait for new requests.
        predictor.terminate()
        predictor.terminate()
        predictor.process.wait(60)
        waiting = jobs.wait_for_status(job["id"], "starting")

    assert waiting["tries"] == 1
