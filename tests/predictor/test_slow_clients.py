"""Clients that send slowly, close one side, or leave in the middle of a request."""

from __future__ import annotations

import re
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from predictor.edge.read_clock import READ_SECONDS
from tests.predictor.metric_samples import metric, wait_for_metric
from tests.predictor.raw_http import BODY, answers, connected, exchange, predict, received
from tests.serving import PREDICT, Server

# No other test requests this number of steps.
LONG = (
    b'{"prompt": "a red star", "parameters": '
    b'{"num_inference_steps": 147, "width": 128, "height": 128, "num_images_per_prompt": 12}}'
)
UNFINISHED = {
    "no line": b"POST /v1",
    "no headers": predict()[:40],
    "no body": predict().removesuffix(BODY),
    "half a body": predict()[:-5],
    "half a chunk": predict("Transfer-Encoding: chunked", framed=False, body=b"ff\r\n{"),
}


def test_unfinished_requests_time_out(server: Server) -> None:
    started = time.monotonic()
    with ExitStack() as opened:
        slow = {name: opened.enter_context(connected(server)) for name in UNFINISHED}
        for name, connection in slow.items():
            connection.sendall(UNFINISHED[name])
        silent = opened.enter_context(connected(server))
        # One byte at a time keeps a connection open no longer.
        drip = opened.enter_context(connected(server))
        drip.settimeout(0.5)
        dripped, data = predict("X: " + "a" * 1000), b""
        while not data and dripped:
            drip.sendall(dripped[:1])
            dripped = dripped[1:]
            try:
                data = drip.recv(65536)
            except TimeoutError:
                continue
        found = {name: answers(received(connection)) for name, connection in slow.items()}
        assert received(silent) == b""
        took = time.monotonic() - started
        alive = httpx.get(server.url).status_code

    assert {name: [answer.status for answer in found[name]] for name in found} == {
        name: [408] for name in UNFINISHED
    }
    assert [answer.error for answer in found["no body"]] == [
        "the request was not complete after 20 s of waiting"
    ]
    assert answers(data)[0].status == 408
    assert READ_SECONDS - 1 < took < READ_SECONDS + 15
    assert alive == 200


def test_a_caller_that_closes_its_own_side_gets_its_picture(server: Server) -> None:
    with connected(server) as connection:
        connection.sendall(predict())
        connection.shutdown(socket.SHUT_WR)
        found = answers(received(connection))

    assert found[-1].status == 200
    assert found[-1].headers["content-type"] == "image/png"
    # Interim responses come first (RFC 9110, section 15.2).
    assert {answer.status for answer in found[:-1]} <= {100}


def test_a_stream_continues_after_the_caller_closes_its_own_side(server: Server) -> None:
    with connected(server) as connection:
        connection.sendall(predict("Accept: text/event-stream"))
        connection.shutdown(socket.SHUT_WR)
        data = received(connection)

    assert b"event: result" in data or b"predictions" in data
    assert data.endswith(b"0\r\n\r\n")


def test_a_caller_that_leaves_while_it_waits_frees_the_engine(server: Server) -> None:
    left = metric(server.url, "diffusion_requests_total", code="499")
    with connected(server) as connection:
        connection.sendall(predict(body=LONG))
        wait_for_metric(server.url, "diffusion_pictures", 1, state="in_flight")

    wait_for_metric(server.url, "diffusion_requests_total", left + 1, code="499")
    step = server.wait_for_log(r"the caller left at step (\d+) of 147")
    assert int(step[1]) < 147


@pytest.mark.parametrize("ending", ["close", "reset", "shutdown"])
def test_a_caller_that_leaves_in_mid_body_is_one_line_and_499(server: Server, ending: str) -> None:
    left = metric(server.url, "diffusion_requests_total", code="499")
    before = server.log.read_text()
    with connected(server) as connection:
        connection.sendall(predict()[:-5])
        time.sleep(0.3)
        if ending == "reset":
            linger = b"\x01\0\0\0\0\0\0\0"
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if ending == "shutdown":
            connection.shutdown(socket.SHUT_WR)
            assert received(connection) == b""

    wait_for_metric(server.url, "diffusion_requests_total", left + 1, code="499")
    lines = server.log.read_text().removeprefix(before).splitlines()
    (line,) = [line for line in lines if not re.search(r"GET /metrics", line)]
    assert f'"POST {PREDICT} HTTP/1.1" 499' in line


def test_an_idle_connection_stays_open_after_stray_bytes(server: Server) -> None:
    with connected(server) as connection:
        connection.sendall(b"\r\n")
        time.sleep(0.5)
        connection.sendall(predict("Connection: close"))

        assert answers(received(connection))[0].status == 200


def test_a_connection_without_a_request_is_closed(demo_model: Path, tmp_path: Path) -> None:
    with Server.started(demo_model, tmp_path / "log", timeout_keep_alive=1) as short:
        short.wait_for("/")
        for first in (b"", b"\r\n"):
            with connected(short, seconds=10) as connection:
                connection.sendall(first)
                assert received(connection) == b""
        assert exchange(short, b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")[0].status == 200


def test_the_reader_of_a_stream_that_waits_in_the_queue_leaves(
    demo_model: Path, tmp_path: Path
) -> None:
    """Such a stream sends nothing, so only the end of the connection shows that it has left."""
    body = {"prompt": "a red star", "num_inference_steps": 150, "size": "256x256", "n": 8}
    stream = {"accept": "text/event-stream"}
    settings = {"max_lanes": 16, "max_queue_seconds": 3600}
    with Server.started(demo_model, tmp_path / "log", **settings) as server:
        server.wait_until_ready()
        with httpx.stream("POST", server.url + PREDICT, json=body, headers=stream, timeout=60):
            wait_for_metric(server.url, "diffusion_pictures", 8, state="in_flight")
            waiting = body | {"n": 1}
            with httpx.stream(
                "POST", server.url + PREDICT, json=waiting, headers=stream, timeout=60
            ):
                wait_for_metric(server.url, "diffusion_pictures", 1, state="waiting")
            server.wait_for_log(r'"POST /v1/models/stable-diffusion:predict HTTP/1.1" 499', 20)
            assert metric(server.url, "diffusion_pictures", state="waiting") == 0
