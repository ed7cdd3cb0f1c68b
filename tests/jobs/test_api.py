"""The HTTP API of a real process with SQLite, in front of a scripted predictor."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.jobs.jobs_process import PROMPT, JobsServer
from tests.jobs.scripted_predictor import STEPS, ScriptedPredictor
from tests.waiting import wait_until

# More than Python converts to an integer, and more than SQLite stores as one.
DIGITS = "9" * 5000
LARGE_CURSOR = base64.urlsafe_b64encode(b"9" * 30).decode()


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedPredictor]:
    with ScriptedPredictor() as running:
        yield running


@pytest.fixture(scope="module")
def server(
    scripted: ScriptedPredictor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[JobsServer]:
    """A process for tests that do not change its state."""
    folder = tmp_path_factory.mktemp("jobs")
    flags = {"sqlite_path": folder / "jobs.sqlite3", "max_body_bytes": 4096, "models": "sd,sdxl"}
    with JobsServer.running(folder / "log", scripted.url, **flags) as running:
        yield running


def done(server: JobsServer, body: dict[str, Any] | None = None) -> dict[str, Any]:
    return server.wait_for_status(server.submit(body)["id"], "succeeded")


def test_a_job_is_accepted_and_its_picture_is_kept(
    server: JobsServer, scripted: ScriptedPredictor
) -> None:
    body = PROMPT | {"model": "sd", "priority": 7, "expires_in": 600, "seed": 5, "steps": 9}
    response = server.request("POST", "/v1/jobs", json=body)
    accepted = response.json()
    job = server.wait_for_status(accepted["id"], "succeeded")
    picture = server.request("GET", job["pictures"][0]["url"])

    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/jobs/{accepted['id']}"
    assert (accepted["model"], accepted["seed"], accepted["priority"]) == ("sd", 5, 7)
    assert job["created_at"] == accepted["created_at"]
    assert job["progress"] == {"step": STEPS, "steps": STEPS}
    assert (job["tries"], job["error"], job["position"]) == (1, None, None)
    assert job["timings"]["queue_seconds"] >= 0
    assert job["timings"]["run_seconds"] >= 0
    call = {"prompt": "a red star", "seed": 5, "steps": 9}
    assert call in scripted.calls, "the predictor gets the body without the envelope"
    assert accepted["id"] in [headers["x-request-id"] for headers in scripted.headers]
    assert picture.content == scripted.picture_of(call)
    assert picture.headers["content-type"] == "image/png"
    assert job["pictures"][0]["bytes"] == len(picture.content)
    assert job["pictures"][0]["seed"] == 5


@pytest.mark.parametrize("given", [{}, {"seed": None}, {"seed": -1}, {"parameters": {"seed": -1}}])
def test_a_missing_seed_is_drawn_at_submission(server: JobsServer, given: dict[str, Any]) -> None:
    first, second = (server.submit(PROMPT | given) for _ in range(2))

    assert isinstance(first["seed"], int)
    assert first["seed"] != second["seed"]


def test_the_same_key_and_body_name_the_same_job(server: JobsServer) -> None:
    first = server.submit(Idempotency_Key="one")
    again = server.submit(Idempotency_Key="one")
    other = server.request(
        "POST", "/v1/jobs", json=PROMPT | {"seed": 1}, headers={"idempotency-key": "one"}
    )

    assert again["id"] == first["id"]
    assert again["seed"] == first["seed"]
    assert other.status_code == 409
    assert other.json() == {"error": "the Idempotency-Key was used with another body"}


def test_a_caller_can_wait_for_the_end(server: JobsServer) -> None:
    headers = {"prefer": "respond-async, wait=30"}
    response = server.request("POST", "/v1/jobs", json=PROMPT, headers=headers)

    assert response.status_code == 200
    assert response.headers["preference-applied"] == "wait=30"
    assert response.json()["status"] == "succeeded"


def test_a_wait_that_is_too_short_gets_202(server: JobsServer, tmp_path: Path) -> None:
    # Nothing listens on this port.
    with JobsServer.running(
        tmp_path / "log", "http://127.0.0.1:9", sqlite_path=tmp_path / "jobs.sqlite3"
    ) as lonely:
        headers = {"prefer": "wait=1"}
        response = lonely.request("POST", "/v1/jobs", json=PROMPT, headers=headers)

    assert response.status_code == 202
    assert response.json()["status"] in ("queued", "starting")


def test_a_picture_has_an_etag(server: JobsServer) -> None:
    url = done(server)["pictures"][0]["url"]
    whole = server.request("GET", url)
    etag = whole.headers["etag"]
    same = server.request("GET", url, headers={"if-none-match": f'"x", W/{etag}'})
    other = server.request("GET", url, headers={"if-none-match": '"x"'})
    head = server.request("HEAD", url)

    assert etag == f'"{hashlib.sha256(whole.content).hexdigest()}"'
    assert (same.status_code, same.content) == (304, b"")
    assert (other.status_code, other.content) == (200, whole.content)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [("bytes=0-3", 0, 3), ("bytes=5-", 5, None), ("bytes=-4", -4, None), ("bytes=3-9999", 3, None)],
)
def test_a_part_of_a_picture_can_be_read(
    server: JobsServer, header: str, first: int, last: int | None
) -> None:
    url = done(server)["pictures"][0]["url"]
    whole = server.request("GET", url).content
    part = server.request("GET", url, headers={"range": header})
    expected = whole[first : None if last is None else last + 1]

    assert part.status_code == 206
    assert part.content == expected
    start = whole.index(expected)
    assert part.headers["content-range"] == (
        f"bytes {start}-{start + len(expected) - 1}/{len(whole)}"
    )


def test_ranges_outside_the_picture_and_stale_ones(server: JobsServer) -> None:
    url = done(server)["pictures"][0]["url"]
    whole = server.request("GET", url)
    beyond = server.request("GET", url, headers={"range": "bytes=9999-"})
    stale = server.request("GET", url, headers={"range": "bytes=0-3", "if-range": '"old"'})
    several = server.request("GET", url, headers={"range": "bytes=0-3,5-6"})

    assert beyond.status_code == 416
    assert beyond.headers["cache-control"] == "no-store", "a later GET must not get it"
    assert beyond.headers["content-range"] == f"bytes */{len(whole.content)}"
    for response in (stale, several):
        assert (response.status_code, response.content) == (200, whole.content)


@pytest.mark.parametrize("header", ["bytes={}-", "bytes=-{}", "bytes=0-{}"])
def test_a_range_of_thousands_of_digits_is_ignored(server: JobsServer, header: str) -> None:
    url = done(server)["pictures"][0]["url"]
    response = server.request("GET", url, headers={"range": header.format("9" * 5000)})

    assert response.status_code == 200


def test_a_blocked_picture_has_no_file(server: JobsServer) -> None:
    job = done(server, {"prompt": "blocked star"})
    response = server.request("GET", f"/v1/jobs/{job['id']}/pictures/0")

    assert job["pictures"][0]["url"] is None
    assert response.status_code == 404
    assert "safety layer" in response.json()["error"]


def test_the_events_show_each_change_up_to_the_end(server: JobsServer) -> None:
    job = server.submit({"prompt": "busy with events"})
    response = server.request("GET", f"/v1/jobs/{job['id']}/events")
    events = [
        json.loads(event.removeprefix("event: job\ndata: "))
        for event in response.text.strip().split("\n\n")
    ]

    assert response.headers["content-type"].startswith("text/event-stream")
    assert [event["status"] for event in events][-1] == "succeeded"
    assert {event["id"] for event in events} == {job["id"]}
    assert len(events) >= 2, "the job was waiting, and then ended"
    assert events[-1]["pictures"][0]["url"]


def test_an_invalid_request_fails_with_the_predictors_reason(server: JobsServer) -> None:
    job = server.submit({"prompt": "invalid"})
    failed = server.wait_for_status(job["id"], "failed")
    picture = server.request("GET", f"/v1/jobs/{job['id']}/pictures/0")

    assert failed["error"] == "width: 7 is not a multiple of 8"
    assert failed["tries"] == 1
    assert picture.status_code == 404


def test_a_picture_number_of_thousands_of_digits_is_unknown(server: JobsServer) -> None:
    job = done(server)
    response = server.request("GET", f"/v1/jobs/{job['id']}/pictures/{DIGITS}")

    assert response.status_code == 404
    assert response.json()["error"] == "the number of a picture is an integer from 0"


def test_jobs_are_listed_in_pages(server: JobsServer) -> None:
    for _ in range(3):
        done(server)
    first = server.request("GET", "/v1/jobs?status=succeeded&limit=2").json()
    second = server.request(
        "GET", f"/v1/jobs?status=succeeded&limit=2&cursor={first['next_cursor']}"
    ).json()
    jobs = [*first["jobs"], *second["jobs"]]

    assert len(first["jobs"]) == 2
    assert len({job["id"] for job in jobs}) == len(jobs)
    assert {job["status"] for job in jobs} == {"succeeded"}
    times = [job["created_at"] for job in jobs]
    assert times == sorted(times, reverse=True)


def test_the_short_names(server: JobsServer, scripted: ScriptedPredictor) -> None:
    response = server.request("POST", "/generate", json=PROMPT | {"seed": 3})
    accepted = response.json()
    server.wait_for_status(accepted["job_id"], "succeeded")
    status = server.request("GET", f"/status/{accepted['job_id']}")
    result = server.request("GET", f"/result/{accepted['job_id']}")

    assert response.status_code == 202
    assert accepted == {"job_id": accepted["job_id"], "status": "pending"}
    assert status.json() == {
        "job_id": accepted["job_id"],
        "status": "completed",
        "result": f"/result/{accepted['job_id']}",
    }
    assert result.content == scripted.picture_of(PROMPT | {"seed": 3})
    assert result.headers["content-type"] == "image/png"


def test_the_result_of_a_failed_job(server: JobsServer) -> None:
    job_id = server.request("POST", "/generate", json={"prompt": "invalid"}).json()["job_id"]
    server.wait_for_status(job_id, "failed")
    result = server.request("GET", f"/result/{job_id}")

    assert result.status_code == 409
    assert result.json()["error"] == "width: 7 is not a multiple of 8"


@pytest.mark.parametrize(
    ("content", "status", "error"),
    [
        (b"no json", 400, "the body is not valid JSON"),
        (b'{"prompt": NaN}', 400, "the body is not valid JSON"),
        (b'{"prompt": "\\ud800"}', 400, "the body is not valid JSON"),
        (b"[" * 3000, 400, "the body is not valid JSON"),
        (
            b"[]",
            400,
            'the body must be a JSON object with "prompt" or "instances", as for :predict',
        ),
        (
            b'{"seed": 1}',
            400,
            'the body must be a JSON object with "prompt" or "instances", as for',
        ),
        (b'{"instances": 1}', 400, "instances: must be a list of JSON objects"),
        (b'{"instances": []}', 400, "instances: is empty"),
        (b'{"prompt": "x", "model": 1}', 400, "model: must be a string"),
        (
            b'{"prompt": "x", "model": "y"}',
            404,
            "model: 'y' takes no jobs; the models are sd, sdxl",
        ),
        (b'{"prompt": "x", "priority": 10}', 400, "priority: 10 is not an integer from 0 to 9"),
        (b'{"prompt": "x", "priority": 1e999}', 400, "priority: must be a number"),
        (b'{"prompt": "x", "priority": "1"}', 400, "priority: must be a number"),
        (b'{"prompt": "x", "expires_in": 0}', 400, "expires_in: 0 is not between 1 and 604800"),
        (b'{"prompt": "x", "webhook": "http://x"}', 400, "webhook: this server signs no"),
        (b'{"prompt": "' + b"x" * 5000 + b'"}', 413, "the body is longer than 4096 bytes"),
    ],
)
def test_invalid_bodies(server: JobsServer, content: bytes, status: int, error: str) -> None:
    for path in ("/v1/jobs", "/generate"):
        response = server.request("POST", path, content=content)
        assert response.status_code == status
        assert response.json()["error"].startswith(error)


def test_a_body_without_a_length_is_bounded(server: JobsServer) -> None:
    response = server.request("POST", "/v1/jobs", content=iter([b"x" * 3000, b"x" * 3000]))

    assert response.status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/v1/jobs/unknown", 404, "no job has the id 'unknown'"),
        ("DELETE", "/v1/jobs/unknown", 404, "no job has the id 'unknown'"),
        ("GET", "/v1/jobs/unknown/events", 404, "no job has the id 'unknown'"),
        ("GET", "/v1/jobs/unknown/pictures/0", 404, "no job has the id 'unknown'"),
        ("GET", "/status/unknown", 404, "no job has the id 'unknown'"),
        ("GET", "/result/unknown", 404, "no job has the id 'unknown'"),
        ("GET", "/v1/jobs?status=done", 400, "status: must be one of queued, starting"),
        ("GET", "/v1/jobs?state=queued", 400, "state: must be one of status, limit, cursor"),
        ("GET", "/v1/jobs?limit=0", 400, "limit: must be an integer from 1 to 100"),
        ("GET", f"/v1/jobs?limit={DIGITS}", 400, "limit: must be an integer from 1 to 100"),
        ("GET", "/v1/jobs?cursor=x", 400, "cursor: is not a next_cursor"),
        ("GET", f"/v1/jobs?cursor={LARGE_CURSOR}", 400, "cursor: is not a next_cursor"),
        ("GET", f"/v1/jobs/unknown/pictures/{DIGITS}", 404, "no job has the id 'unknown'"),
        ("GET", "/v1/jobs/", 404, "/v1/jobs/: Not Found"),
        ("GET", "/unknown", 404, "/unknown: Not Found"),
        ("PUT", "/v1/jobs", 405, "/v1/jobs: Method Not Allowed"),
    ],
)
def test_errors_have_the_form_of_the_predictor(
    server: JobsServer, method: str, path: str, status: int, error: str
) -> None:
    response = server.request(method, path)

    assert response.status_code == status
    assert response.json().keys() == {"error"}
    assert response.json()["error"].startswith(error)


def test_the_metrics_count_jobs_by_model(server: JobsServer) -> None:
    done(server, PROMPT | {"model": "sdxl"})
    text = server.request("GET", "/metrics").text

    assert 'diffusion_jobs_ended_total{model_name="sdxl",status="succeeded"} 1\n' in text
    assert 'diffusion_jobs_queued{model_name="sdxl"} 0\n' in text
    assert 'diffusion_jobs_running{model_name="sdxl"} 0\n' in text
    assert {family.name for family in text_string_to_metric_families(text)} >= {
        "diffusion_jobs_queued",
        "diffusion_jobs_ended",
    }


def test_probes(server: JobsServer) -> None:
    assert server.request("GET", "/v2/health/live").status_code == 200
    assert server.request("GET", "/v2/health/ready").status_code == 200


def test_a_full_queue_is_refused_with_a_time_to_retry(tmp_path: Path) -> None:
    with (
        ScriptedPredictor() as predictor,
        JobsServer.running(
            tmp_path / "log",
            predictor.url,
            sqlite_path=tmp_path / "jobs.sqlite3",
            max_queue_length=1,
            max_concurrency=1,
        ) as server,
    ):
        running = server.submit({"prompt": "hold"})
        server.wait_for_status(running["id"], "in_progress")
        waiting = server.submit()
        refused = server.request("POST", "/v1/jobs", json=PROMPT)
        predictor.release()
        server.wait_for_status(waiting["id"], "succeeded")

    assert waiting["position"] == 0
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert "the queue is full" in refused.json()["error"]


def test_a_waiting_and_a_running_job_can_be_cancelled(tmp_path: Path) -> None:
    with (
        ScriptedPredictor() as predictor,
        JobsServer.running(
            tmp_path / "log",
            predictor.url,
            sqlite_path=tmp_path / "jobs.sqlite3",
            max_concurrency=1,
        ) as server,
    ):
        running = server.submit({"prompt": "hold"})
        server.wait_for_status(running["id"], "in_progress")
        waiting = server.submit({"prompt": "never called"})
        for job in (waiting, running):
            cancelled = server.request("DELETE", f"/v1/jobs/{job['id']}")
            assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
        wait_until(lambda: predictor.left == ["hold"])
        after = server.wait_for_status(server.submit()["id"], "succeeded")
        again = server.request("DELETE", f"/v1/jobs/{after['id']}")

    assert predictor.prompts() == ["hold", "a red star"]
    assert again.json()["status"] == "succeeded", "a finished job stays as it is"


def test_the_predictor_gets_its_key(predictor: ScriptedPredictor, tmp_path: Path) -> None:
    flags = {"sqlite_path": tmp_path / "jobs.sqlite3", "predictor_api_key": "sk-1"}
    with JobsServer.running(tmp_path / "log", predictor.url, **flags) as server:
        done(server)
        log = server.log.read_text()

    assert predictor.headers[0]["authorization"] == "Bearer sk-1"
    assert "sk-1" not in log


def test_a_job_expires_while_it_runs(tmp_path: Path) -> None:
    with (
        ScriptedPredictor() as predictor,
        JobsServer.running(
            tmp_path / "log", predictor.url, sqlite_path=tmp_path / "jobs.sqlite3"
        ) as server,
    ):
        job = server.submit({"prompt": "hold", "expires_in": 1})
        expired = server.request(
            "GET", f"/v1/jobs/{job['id']}", headers={"prefer": "wait=30"}
        ).json()
        wait_until(lambda: predictor.left == ["hold"])

    assert expired["status"] == "expired"
    assert expired["error"] == "the job did not finish within its expires_in"


def test_an_unread_stream_ends_on_sigterm(tmp_path: Path) -> None:
    with (
        ScriptedPredictor() as predictor,
        JobsServer.running(
            tmp_path / "log",
            predictor.url,
            sqlite_path=tmp_path / "jobs.sqlite3",
            drain_seconds=0,
        ) as server,
    ):
        job = server.submit({"prompt": "hold"})
        server.wait_for_status(job["id"], "in_progress")
        with httpx.stream("GET", f"{server.url}/v1/jobs/{job['id']}/events", timeout=60) as events:
            lines = events.iter_lines()
            assert next(lines) == "event: job"
            server.terminate()
            assert list(lines)[-1] == "", "the stream ends without an error"
        assert server.process.wait(60) == 0
