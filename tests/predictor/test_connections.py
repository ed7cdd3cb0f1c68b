"""Callers that disconnect, overload, timeouts and shutdown."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.serving import MODEL_NAME, PREDICT, SHORT, Server

LONG = {
    "prompt": "a red star",
    "parameters": {"num_inference_steps": 150, "width": 128, "height": 128},
}
# No other test requests this number of steps.
ENDLESS = {
    "prompt": "a red star",
    "parameters": {
        "num_inference_steps": 149,
        "width": 128,
        "height": 128,
        "num_images_per_prompt": 12,
    },
}
LARGE = {
    "prompt": "a red star",
    "parameters": {"num_inference_steps": 20, "width": 256, "height": 256},
}


def test_a_disconnected_caller_frees_the_engine(client: httpx.Client, server: Server) -> None:
    with (
        pytest.raises(httpx.ReadTimeout),
        httpx.Client(base_url=server.url, timeout=1) as leaver,
    ):
        leaver.post(PREDICT, json=ENDLESS)

    left = server.wait_for_log(r"the caller left at step (\d+) of 149")
    answer = client.post(PREDICT, json=SHORT)

    assert int(left[1]) < 149
    assert answer.status_code == 200
    assert "the caller disconnected" in server.log.read_text()


def test_a_full_queue_refuses_requests_at_once(demo_model: Path, tmp_path: Path) -> None:
    settings = {"max_queue_length": 2, "max_lanes": 16, "max_queue_seconds": 1000}
    with Server.started(demo_model, tmp_path / "log", **settings) as server:
        server.wait_until_ready()
        with ThreadPoolExecutor(14) as callers:
            answers = list(
                callers.map(
                    lambda _: httpx.post(server.url + PREDICT, json=LARGE, timeout=120), [0] * 14
                )
            )

    # Eight take turns, however few fit into one forward pass, and two wait.
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] * 10 + [429] * 4
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert "2 pictures are waiting" in refused.json()["error"]
    assert int(refused.headers["retry-after"]) > 0


def test_a_request_that_takes_too_long_times_out(demo_model: Path, tmp_path: Path) -> None:
    with Server.started(demo_model, tmp_path / "log", request_timeout_seconds=2) as server:
        server.wait_until_ready()
        late = httpx.post(server.url + PREDICT, json=ENDLESS, timeout=120)
        in_time = httpx.post(server.url + PREDICT, json=SHORT, timeout=120)
        log = server.log.read_text()

    assert late.status_code == 504
    match = re.fullmatch(r"not done within 2 s: at step (\d+) of 1788", late.json()["error"])
    assert match
    assert int(match[1]) > 0
    assert in_time.status_code == 200
    assert "the caller left at step" in log


def test_sigterm_fails_the_probes_and_still_serves_requests(
    demo_model: Path, tmp_path: Path
) -> None:
    with Server.started(demo_model, tmp_path / "log", drain_seconds=6) as server:
        server.wait_until_ready()
        with ThreadPoolExecutor(2) as callers:
            in_flight = callers.submit(httpx.post, server.url + PREDICT, json=LONG, timeout=120)
            time.sleep(0.3)
            server.terminate()
            server.wait_for(f"/v2/models/{MODEL_NAME}/ready", status=503, seconds=4)
            server_ready = httpx.get(server.url + "/v2/health/ready").status_code
            late = callers.submit(httpx.post, server.url + PREDICT, json=SHORT, timeout=120)
            answers = [in_flight.result(), late.result()]
        status = server.process.wait(timeout=60)

    assert server_ready == 503
    assert [answer.status_code for answer in answers] == [200, 200]
    assert status == 0


def test_sigterm_while_loading_exits_cleanly(demo_model: Path, tmp_path: Path) -> None:
    with Server.started(demo_model, tmp_path / "log") as server:
        server.wait_for("/")
        server.terminate()
        assert server.process.wait(timeout=60) == 0
