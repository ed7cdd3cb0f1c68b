"""Replicas that share a queue: workers and predictors stop, and each job ends once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo.run import free_port
from tests.jobs.jobs_process import PROMPT, JobsServer
from tests.jobs.scripted_predictor import ScriptedPredictor
from tests.redis_server import RedisServer, needs_redis
from tests.serving import ROOT
from tests.waiting import wait_until


def test_jobs_that_wait_for_a_predictor_run_when_it_appears(
    storage_flags: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    with JobsServer.running(
        tmp_path / "log", f"http://127.0.0.1:{port}", **storage_flags
    ) as server:
        jobs = [server.submit({"prompt": f"star {number}"}) for number in range(5)]
        first = server.wait_for_status(jobs[0]["id"], "starting")
        assert server.job(jobs[1]["id"])["status"] == "queued", "one job wakes the predictor up"
        with ScriptedPredictor(port) as predictor:
            ended = [server.wait_for_status(job["id"], "succeeded") for job in jobs]

    assert first["tries"] == 1
    assert [job["tries"] for job in ended] == [1] * 5, "waiting does not count as a try"
    assert [job["seed"] for job in ended] == [job["seed"] for job in jobs]
    assert sorted(predictor.prompts()) == [f"star {number}" for number in range(5)]


def test_a_busy_predictor_gets_the_job_after_the_time_that_it_names(
    storage_flags: dict[str, str], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    with JobsServer.running(tmp_path / "log", predictor.url, **storage_flags) as server:
        job = server.wait_for_status(server.submit({"prompt": "busy"})["id"], "succeeded")

    assert predictor.prompts() == ["busy", "busy"]
    assert job["tries"] == 1
    assert job["timings"]["start_seconds"] >= 1, "retry-after was 1"


def test_a_job_survives_its_worker_and_makes_the_same_picture(
    storage_flags: dict[str, str], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    with JobsServer.running(tmp_path / "lost.log", predictor.url, **storage_flags) as lost:
        job = lost.submit({"prompt": "hold"})
        lost.wait_for_status(job["id"], "in_progress")
        lost.process.kill()
        lost.process.wait()
    wait_until(lambda: predictor.left == ["hold"])
    predictor.release()
    with JobsServer.running(tmp_path / "log", predictor.url, **storage_flags) as server:
        ended = server.wait_for_status(job["id"], "succeeded")
        picture = server.request("GET", ended["pictures"][0]["url"])

    assert ended["tries"] == 2
    assert [call["seed"] for call in predictor.calls] == [job["seed"]] * 2
    assert picture.content == predictor.picture_of(predictor.calls[0])


def test_a_job_is_given_back_on_sigterm_and_runs_elsewhere_at_once(
    storage_flags: dict[str, str], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    flags = storage_flags | {"lease_seconds": "600"}
    with JobsServer.running(tmp_path / "one.log", predictor.url, **flags, drain_seconds=0) as one:
        job = one.submit({"prompt": "hold"})
        one.wait_for_status(job["id"], "in_progress")
        with JobsServer.running(tmp_path / "other.log", predictor.url, **flags) as other:
            one.terminate()
            one.process.wait(60)
            wait_until(lambda: len(predictor.calls) == 2)
            predictor.release()
            ended = other.wait_for_status(job["id"], "succeeded")

    assert ended["tries"] == 1, "the first try does not count"


def test_a_running_job_ends_before_the_process_on_sigterm(
    storage_flags: dict[str, str], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    with JobsServer.running(tmp_path / "one.log", predictor.url, **storage_flags) as one:
        job = one.submit({"prompt": "hold"})
        waiting = one.submit({"prompt": "waiting"})
        one.wait_for_status(job["id"], "in_progress")
        one.wait_for_status(waiting["id"], "succeeded")
        one.terminate()
        one.wait_for_log("Shutting down")
        predictor.release()
        one.process.wait(60)
    with JobsServer.running(tmp_path / "log", predictor.url, **storage_flags) as server:
        assert server.job(job["id"])["status"] == "succeeded"

    assert predictor.prompts().count("hold") == 1


def test_a_job_that_stops_the_predictor_fails_alone(
    storage_flags: dict[str, str], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    with JobsServer.running(tmp_path / "log", predictor.url, **storage_flags) as server:
        innocent = [server.submit({"prompt": f"hold {number}"}) for number in range(3)]
        for job in innocent:
            server.wait_for_status(job["id"], "in_progress")
        poison = server.submit({"prompt": "crash"})
        wait_until(lambda: predictor.prompts().count("crash") >= 2)
        predictor.release()
        failed = server.wait_for_status(poison["id"], "failed")
        ended = [server.wait_for_status(job["id"], "succeeded") for job in innocent]
        after = server.wait_for_status(server.submit()["id"], "succeeded")

    assert failed["tries"] == 3
    assert failed["error"] == "the connection to the predictor ended before the job was done"
    assert predictor.prompts().count("crash") == 3
    assert all(job["tries"] <= 3 for job in ended)
    assert after["tries"] == 1


def test_a_job_that_fails_is_tried_again_and_keeps_the_reason(
    storage_flags: dict[str, str], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    with JobsServer.running(tmp_path / "log", predictor.url, **storage_flags) as server:
        failed = server.wait_for_status(server.submit({"prompt": "fail"})["id"], "failed")

    assert failed["error"] == "picture: the engine failed"
    assert predictor.prompts() == ["fail"] * 3


def test_a_process_runs_as_many_jobs_as_the_predictor_has_lanes(
    storage_flags: dict[str, str], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    predictor.lanes = 4
    with JobsServer.running(tmp_path / "log", predictor.url, **storage_flags) as server:
        jobs = [server.submit({"prompt": f"hold {number}"}) for number in range(6)]
        wait_until(lambda: predictor.most_at_once == 4)
        statuses = [server.job(job["id"])["status"] for job in jobs]
        predictor.release()
        for job in jobs:
            server.wait_for_status(job["id"], "succeeded")

    assert statuses[4:] == ["queued", "queued"]


def test_replicas_share_the_jobs(
    storage_flags: dict[str, str], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    with (
        JobsServer.running(tmp_path / "one.log", predictor.url, **storage_flags) as one,
        JobsServer.running(tmp_path / "other.log", predictor.url, **storage_flags) as other,
    ):
        replicas = [one, other] * 10
        jobs = [
            replica.submit({"prompt": f"star {number}"}) for number, replica in enumerate(replicas)
        ]
        # Each replica sees the jobs of the other, and wakes up who waits for them.
        for job, replica in zip(reversed(jobs), replicas, strict=True):
            path = f"/v1/jobs/{job['id']}"
            waited = replica.request("GET", path, headers={"prefer": "wait=50"})
            assert waited.json()["status"] == "succeeded"

    assert sorted(predictor.prompts()) == sorted(f"star {number}" for number in range(20))


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_returns_running_jobs_at_once(
    predictor: ScriptedPredictor, tmp_path: Path, second: signal.Signals
) -> None:
    flags = {"sqlite_path": tmp_path / "jobs.sqlite3", "lease_seconds": 600, "drain_seconds": 600}
    with JobsServer.running(tmp_path / "log", predictor.url, **flags) as server:
        job = server.submit({"prompt": "hold"})
        server.wait_for_status(job["id"], "in_progress")
        server.terminate()
        server.wait_for_log("Finished server process")
        server.process.send_signal(second)
        status = server.process.wait(60)
    with JobsServer.running(tmp_path / "other.log", predictor.url, **flags) as other:
        again = other.wait_for_status(job["id"], "in_progress")

    assert status == 0
    assert again["tries"] == 1, "the first try does not count"
    assert "Traceback" not in server.log.read_text()


def test_a_process_whose_port_is_in_use_claims_no_jobs(tmp_path: Path) -> None:
    flags = {"sqlite_path": tmp_path / "jobs.sqlite3", "lease_seconds": 600}
    nowhere = f"http://127.0.0.1:{free_port()}"
    with JobsServer.running(tmp_path / "log", nowhere, **flags) as server:
        # The predictor is not running, so that this process runs one job at a time.
        jobs = [server.submit() for _ in range(3)]
        server.wait_for_status(jobs[0]["id"], "starting")
        other = [sys.executable, "-m", "jobs", "--port", server.url.rpartition(":")[2]]
        other += [f"--{name}={value}" for name, value in flags.items()]
        ended = subprocess.run(
            other, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        found = [server.job(job["id"]) for job in jobs[1:]]

    assert ended.returncode != 0
    assert "address already in use" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert [(job["status"], job["tries"]) for job in found] == [("queued", 0)] * 2


@needs_redis
def test_jobs_survive_an_interruption_of_redis(
    redis: RedisServer, predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    with JobsServer.running(tmp_path / "log", predictor.url, redis_url=redis.url) as server:
        job = server.submit({"prompt": "hold"})
        server.wait_for_status(job["id"], "in_progress")
        redis.freeze()
        refused = server.request("POST", "/v1/jobs", json=PROMPT)
        ready = server.request("GET", "/v2/health/ready")
        predictor.release()
        redis.thaw()
        ended = server.wait_for_status(job["id"], "succeeded")

    assert (refused.status_code, ready.status_code) == (503, 503)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json() == {"error": "the storage of the jobs does not answer"}
    assert ended["pictures"][0]["seed"] == job["seed"]


@needs_redis
def test_jobs_survive_a_restart_of_redis(predictor: ScriptedPredictor, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    redis.start()
    try:
        with JobsServer.running(tmp_path / "log", predictor.url, redis_url=redis.url) as server:
            jobs = [server.submit({"prompt": f"hold {number}"}) for number in range(3)]
            server.wait_for_status(jobs[0]["id"], "in_progress")
            redis.kill()
            redis.start()
            server.wait_for("/v2/health/ready")
            predictor.release()
            ended = [server.wait_for_status(job["id"], "succeeded") for job in jobs]
            listed = server.request("GET", "/v1/jobs").json()["jobs"]
    finally:
        redis.kill()

    assert [job["seed"] for job in ended] == [job["seed"] for job in jobs]
    assert {job["id"] for job in listed} == {job["id"] for job in jobs}
