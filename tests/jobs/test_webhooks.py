"""Webhooks of the running program, sent to a real receiver that misbehaves."""

from __future__ import annotations

import base64
import re
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from demo.run import free_port
from tests.jobs.jobs_process import JobsServer
from tests.jobs.receiver import KEY, SECRET, Message, Receiver, signature_of
from tests.jobs.scripted_predictor import ScriptedPredictor
from tests.waiting import wait_until

LOCAL = {"webhook_secrets": SECRET, "webhook_networks": "127.0.0.1/32", "webhook_allow_http": True}
STARTED, PROGRESS, COMPLETED = "job.started", "job.progress", "job.completed"


@pytest.fixture
def sqlite(tmp_path: Path) -> dict[str, Any]:
    """The settings of a server whose webhooks may reach this machine."""
    return {"sqlite_path": tmp_path / "jobs.sqlite3", **LOCAL}


def submit(server: JobsServer, url: str, prompt: str = "a red star") -> str:
    return str(server.submit({"prompt": prompt, "webhook": url})["id"])


def metric(server: JobsServer, name: str) -> float:
    text = server.request("GET", "/metrics").text
    found = re.search(rf"^diffusion_jobs_{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, text
    return float(found[1])


def ended(server: JobsServer, outcome: str) -> float:
    return metric(server, f'webhooks_ended_total{{outcome="{outcome}"}}')


def bodies_by_id(messages: list[Message]) -> dict[str, set[bytes]]:
    found: dict[str, set[bytes]] = {}
    for message in messages:
        found.setdefault(message.id, set()).add(message.body)
    return found


def test_the_events_of_a_job_arrive_signed_and_in_order(
    storage_flags: dict[str, str], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    other = base64.b64encode(b"another secret of 26 bytes").decode()
    flags = storage_flags | LOCAL | {"webhook_secrets": f"{SECRET},whsec_{other}"}
    with (
        Receiver() as receiver,
        JobsServer.running(tmp_path / "log", predictor.url, **flags) as server,
    ):
        job_id = submit(server, receiver.url("/ok"))
        server.wait_for_status(job_id, "succeeded")
        wait_until(lambda: len(receiver.received("/ok", COMPLETED)) == 1)
        wait_until(lambda: metric(server, "webhooks") == 0)
        job = server.job(job_id)
        delivered = ended(server, "delivered")
    start, *_, end = receiver.messages

    assert [start.document["type"], end.document["type"]] == [STARTED, COMPLETED]
    assert start.document["data"]["status"] == "in_progress"
    assert {**end.document["data"], "estimated_seconds": None} == job
    assert end.document["timestamp"] == job["ended_at"]
    assert [start.id, end.id] == [f"msg_{job_id}_started", f"msg_{job_id}_completed"]
    for message in receiver.messages:
        first, second = message.signatures()
        assert first == signature_of(message, KEY)
        assert second == signature_of(message, b"another secret of 26 bytes")
        assert message.headers["content-type"] == "application/json"
    assert delivered == len(receiver.messages)


def test_progress_arrives_at_most_every_half_second(
    sqlite: dict[str, Any], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    with (
        Receiver() as receiver,
        JobsServer.running(tmp_path / "log", predictor.url, **sqlite) as server,
    ):
        job_id = submit(server, receiver.url("/ok"), "walk")
        wait_until(lambda: len(receiver.received("/ok", PROGRESS)) >= 3)
        predictor.release()
        server.wait_for_status(job_id, "succeeded")
        wait_until(lambda: len(receiver.received("/ok", COMPLETED)) == 1)
    start, *progress, _ = (message.document for message in receiver.messages)
    times = [datetime.fromisoformat(one["timestamp"]) for one in (start, *progress)]
    steps = [one["data"]["progress"]["step"] for one in progress]

    assert {one["type"] for one in progress} == {PROGRESS}
    assert len({message.id for message in receiver.messages}) == len(receiver.messages)
    assert steps == sorted(set(steps))
    # The timestamps are rounded to milliseconds.
    assert all((b - a).total_seconds() >= 0.499 for a, b in pairwise(times))


def test_a_cancelled_job_is_reported(
    sqlite: dict[str, Any], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    with (
        Receiver() as receiver,
        JobsServer.running(tmp_path / "log", predictor.url, **sqlite) as server,
    ):
        job_id = submit(server, receiver.url("/ok"), "hold")
        server.wait_for_status(job_id, "in_progress")
        server.request("DELETE", f"/v1/jobs/{job_id}")
        wait_until(lambda: len(receiver.received("/ok", COMPLETED)) == 1)

    assert receiver.received("/ok", COMPLETED)[0].document["data"]["status"] == "cancelled"


def test_a_webhook_is_retried_with_the_same_id_and_body(
    sqlite: dict[str, Any], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    with (
        Receiver() as receiver,
        JobsServer.running(tmp_path / "log", predictor.url, **sqlite) as server,
    ):
        submit(server, receiver.url("/flaky"))
        submit(server, receiver.url("/closes"), "invalid")
        wait_until(lambda: len(receiver.received("/flaky", STARTED)) == 2)
        wait_until(lambda: len(receiver.received("/closes", COMPLETED)) >= 3)
        failures = metric(server, "webhook_failures_total")

    flaky, closes = receiver.received("/flaky"), receiver.received("/closes")
    assert len(bodies_by_id(closes)) == 1
    assert all(len(bodies) == 1 for bodies in bodies_by_id(flaky + closes).values())
    assert failures >= 3
    for message in flaky + closes:
        assert message.signatures() == [signature_of(message)]


def test_a_receiver_that_is_gone_or_sends_without_end_gets_each_event_once(
    sqlite: dict[str, Any], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    with (
        Receiver() as receiver,
        JobsServer.running(tmp_path / "log", predictor.url, **sqlite) as server,
    ):
        submit(server, receiver.url("/gone"), "invalid")
        submit(server, receiver.url("/huge"), "invalid")
        wait_until(lambda: ended(server, "gone") == 1)
        wait_until(lambda: ended(server, "delivered") == 1)
        assert receiver.huge_ended.wait(30)
        assert metric(server, "webhooks") == 0

    assert len(receiver.received("/gone")) == 1
    assert len(receiver.received("/huge")) == 1


def test_a_redirect_is_not_followed(
    sqlite: dict[str, Any], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    with (
        Receiver() as receiver,
        Receiver() as target,
        JobsServer.running(tmp_path / "log", predictor.url, **sqlite) as server,
    ):
        path = f"/redirect/{target.port}"
        submit(server, receiver.url(path), "invalid")
        wait_until(lambda: len(receiver.received(path)) >= 2)
        server.wait_for_log("the receiver responded with status 307")

    assert target.messages == []


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1"])
def test_a_name_of_a_private_address_is_never_reached(
    host: str, sqlite: dict[str, Any], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    flags = sqlite | {"webhook_networks": ""}
    with (
        Receiver() as receiver,
        JobsServer.running(tmp_path / "log", predictor.url, **flags) as server,
    ):
        submit(server, receiver.url("/ok", host), "invalid")
        wait_until(lambda: metric(server, "webhook_failures_total") >= 2)
        server.wait_for_log("the address of the host is not public")

    assert receiver.messages == []


def test_a_slow_receiver_delays_neither_jobs_nor_other_receivers(
    storage_flags: dict[str, str], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    flags = storage_flags | LOCAL | {"webhook_timeout_seconds": 60}
    with (
        Receiver() as slow,
        Receiver() as quick,
        JobsServer.running(tmp_path / "log", predictor.url, **flags) as server,
    ):
        blocked = [submit(server, slow.url("/hangs")) for _ in range(12)]
        wait_until(lambda: len(slow.messages) >= 1)
        others = [submit(server, quick.url("/ok")) for _ in range(12)]
        for job_id in blocked + others:
            server.wait_for_status(job_id, "succeeded")
        wait_until(lambda: len(quick.received("/ok", COMPLETED)) == 12)
        at_once = len(slow.messages)

    assert at_once <= 4, "a receiver gets at most 4 requests at the same time"


def test_webhooks_survive_a_kill_between_commit_and_delivery(
    storage_flags: dict[str, str], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    port = free_port()
    with JobsServer.running(tmp_path / "lost.log", predictor.url, **storage_flags, **LOCAL) as lost:
        jobs = [submit(lost, f"http://127.0.0.1:{port}/ok") for _ in range(5)]
        for job_id in jobs:
            lost.wait_for_status(job_id, "succeeded")
        lost.process.kill()
        lost.process.wait()
    with (
        Receiver(port) as receiver,
        JobsServer.running(tmp_path / "log", predictor.url, **storage_flags, **LOCAL) as server,
    ):
        wait_until(lambda: metric(server, "webhooks") == 0, seconds=60)

    for job_id in jobs:
        ids = {message.id for message in receiver.messages if job_id in message.id}
        assert ids >= {f"msg_{job_id}_started", f"msg_{job_id}_completed"}
    assert all(len(bodies) == 1 for bodies in bodies_by_id(receiver.messages).values())


def test_a_webhook_survives_a_kill_during_delivery(
    storage_flags: dict[str, str], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    flags = storage_flags | LOCAL | {"webhook_timeout_seconds": 1}
    with Receiver() as receiver:
        with JobsServer.running(tmp_path / "lost.log", predictor.url, **flags) as lost:
            job_id = submit(lost, receiver.url("/hangs"), "invalid")
            wait_until(lambda: len(receiver.messages) == 1)
            lost.process.kill()
            lost.process.wait()
        receiver.released.set()
        with JobsServer.running(tmp_path / "log", predictor.url, **flags) as server:
            wait_until(lambda: ended(server, "delivered") == 1, seconds=60)
            assert metric(server, "webhooks") == 0

    assert len(receiver.messages) >= 2
    assert set(bodies_by_id(receiver.messages)) == {f"msg_{job_id}_completed"}
    assert len(bodies_by_id(receiver.messages)[f"msg_{job_id}_completed"]) == 1


def test_sigterm_hands_a_webhook_to_another_process_at_once(
    storage_flags: dict[str, str], predictor: ScriptedPredictor, tmp_path: Path
) -> None:
    flags = storage_flags | LOCAL | {"webhook_timeout_seconds": 60, "drain_seconds": 0}
    with Receiver() as receiver:
        with JobsServer.running(tmp_path / "one.log", predictor.url, **flags) as one:
            submit(one, receiver.url("/hangs"), "invalid")
            wait_until(lambda: len(receiver.messages) == 1)
            one.terminate()
            one.process.wait(60)
        receiver.released.set()
        # Its lease would last for two minutes.
        with JobsServer.running(tmp_path / "log", predictor.url, **flags) as server:
            wait_until(lambda: ended(server, "delivered") == 1)

    assert len(bodies_by_id(receiver.messages)) == 1
