"""Signals at every stage of a request and of a load: each accepted request gets an answer."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from demo.run import publish
from tests.predictor.test_draining import wait_for_pictures
from tests.serving import PREDICT, Server

FAULTY = "tests.predictor.faulty_server"


def body_of(prompt: str) -> bytes:
    return json.dumps({"prompt": prompt, "parameters": {"num_inference_steps": 2}}).encode()


def head_of(path: str, body: bytes) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()


def connect(server: Server, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", httpx.URL(server.url).port), timeout=60)
    connection.sendall(sent)
    return connection


def answer_to(connection: socket.socket, rest: bytes = b"") -> bytes:
    """Send the rest of a request and return the whole response."""
    connection.sendall(rest)
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    connection.close()
    return received


# The stages of the engine's thread, which can only be in one of them.
@pytest.mark.parametrize("stage", ["begin", "step", "decode"])
def test_a_request_at_any_stage_is_answered_after_sigterm(
    demo_model: Path, tmp_path: Path, stage: str
) -> None:
    gate, body = tmp_path / "gate", body_of("a red star")
    variables = {"FAULTY_GATE": str(gate)}
    with (
        Server.started(demo_model, tmp_path / "log", module=FAULTY, variables=variables) as server,
        ThreadPoolExecutor(4) as callers,
    ):
        server.wait_until_ready()

        def send(prompt: str) -> httpx.Response:
            content = {"content-type": "application/json"}
            return httpx.post(
                server.url + PREDICT, content=body_of(prompt), headers=content, timeout=120
            )

        sent = []
        for name in ("encode", "finish", stage):
            sent.append(callers.submit(send, f"pause at {name}"))
            server.wait_for_log(f"pausing at {name}")
        # The engine's thread is busy, so this one stays in the queue.
        sent.append(callers.submit(send, "a red star"))
        accepted = connect(server, b"")
        in_headers = connect(server, head_of(PREDICT, body)[:40])
        in_body = connect(server, head_of(PREDICT, body) + body[:10])
        wait_for_pictures(server, 3)
        server.terminate()
        server.wait_for_log("draining")
        sent += [
            callers.submit(answer_to, accepted, head_of(PREDICT, body) + body),
            callers.submit(answer_to, in_headers, head_of(PREDICT, body)[40:] + body),
            callers.submit(answer_to, in_body, body[10:]),
        ]
        time.sleep(0.2)
        gate.touch()
        answers = [one.result(timeout=120) for one in sent]
        status = server.process.wait(timeout=60)
        log = server.log.read_text()

    assert [one.status_code for one in answers[:4]] == [200] * 4
    assert [one.partition(b"\r\n")[0] for one in answers[4:]] == [b"HTTP/1.1 200 OK"] * 3
    assert status == 0
    assert "Traceback" not in log


def test_sigterm_while_weights_load_answers_the_waiting_requests_and_ends_the_process(
    tmp_path: Path,
) -> None:
    for name in ("first", "second"):
        publish(name, tmp_path / "volume")
    body = body_of("a red star")
    with (
        Server.started(
            tmp_path / "volume",
            tmp_path / "log",
            module=FAULTY,
            variables={"FAULTY_LOAD": "1"},
            memory_budget_gib=1,
            shutdown_seconds=2,
        ) as server,
        ThreadPoolExecutor(2) as callers,
    ):
        server.wait_for("/v2/health/ready")
        path = "/v1/models/first:predict"
        waiting = [
            callers.submit(
                httpx.post,
                f"{server.url}/v1/models/{name}:predict",
                json=json.loads(body),
                timeout=60,
            )
            for name in ("first", "second")
        ]
        server.wait_for_log("pausing at load", seconds=300)
        unfinished = connect(server, head_of(path, body) + body[:10])
        server.wait_for("/v2/health/live")
        started = time.monotonic()
        server.terminate()
        answers = [one.result(timeout=60) for one in waiting]
        answered = time.monotonic() - started
        cut = answer_to(unfinished)
        status = server.process.wait(timeout=60)
        seconds = time.monotonic() - started
        log = server.log.read_text()

    assert [one.status_code for one in answers] == [503, 503]
    assert "before the model is loaded; send the request again" in answers[0].json()["error"]
    assert int(answers[0].headers["retry-after"]) > 0
    # Its body never arrives, so it is cut when shutdown_seconds are over.
    assert cut.startswith(b"HTTP/1.1 503 ")
    assert b'{"error":"the server shuts down' in cut
    assert status == 0
    assert answered < 2
    # The load is still paused: no thread is waited for.
    assert seconds < 10
    assert "Traceback" not in log


def test_sigterm_while_the_only_model_loads_ends_the_process(
    demo_model: Path, tmp_path: Path
) -> None:
    variables = {"FAULTY_LOAD": "1"}
    with Server.started(
        demo_model, tmp_path / "log", module=FAULTY, variables=variables, drain_seconds=60
    ) as server:
        server.wait_for("/")
        server.wait_for_log("pausing at load", seconds=300)
        started = time.monotonic()
        server.terminate()
        server.terminate()
        status = server.process.wait(timeout=60)
        seconds = time.monotonic() - started
        log = server.log.read_text()

    assert status == 0
    # The pod was never ready, so there is nothing to drain.
    assert seconds < 10
    assert "Traceback" not in log


def test_killed_servers_leave_no_file_behind_and_the_next_one_serves(
    demo_model: Path, tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    variables = {"TMPDIR": str(temporary), "HOME": str(temporary)}
    before, killed = contents(demo_model.resolve()), []
    for stage, faults in (("load", {"FAULTY_LOAD": "1"}), ("step", {})):
        with (
            Server.started(
                demo_model, tmp_path / "log", module=FAULTY, variables=variables | faults
            ) as server,
            ThreadPoolExecutor(1) as caller,
        ):
            if stage == "step":
                server.wait_until_ready()
                caller.submit(httpx.post, server.url + PREDICT, json={"prompt": "pause at step"})
            server.wait_for_log(f"pausing at {stage}", seconds=300)
            server.process.kill()
            killed.append(server.process.wait())
    with Server.started(demo_model, tmp_path / "log", variables=variables) as server:
        server.wait_until_ready()
        answer = httpx.post(server.url + PREDICT, json={"prompt": "a red star"}, timeout=60)

    assert killed == [-9, -9]
    assert answer.status_code == 200
    assert contents(demo_model.resolve()) == before
    assert [path for path in temporary.rglob("*") if path.is_file()] == []


def contents(folder: Path) -> dict[str, int]:
    """Every path with the time of its last change."""
    return {str(one): one.stat().st_mtime_ns for one in sorted(folder.rglob("*"))}
