"""Callers who leave, crowds, the end of the process: nothing is lost, nothing made for nobody."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.serving import MODEL_NAME, PREDICT, Server

SHORT = {"prompt": "a red star", "parameters": {"num_inference_steps": 1}}
LONG = {
    "prompt": "a red star",
    "parameters": {"num_inference_steps": 150, "width": 128, "height": 128},
}


def test_a_caller_who_hangs_up_frees_the_engine(client: httpx.Client, server: Server) -> None:
    started = time.perf_counter()
    assert client.post(PREDICT, json=LONG).status_code == 200
    whole = time.perf_counter() - started

    with contextlib.suppress(httpx.ReadTimeout), httpx.Client(base_url=server.url) as leaver:
        leaver.post(PREDICT, json=LONG, timeout=whole / 20)
        pytest.fail("the caller was meant to leave")
    started = time.perf_counter()
    answer = client.post(PREDICT, json=SHORT)

    assert answer.status_code == 200
    assert time.perf_counter() - started < whole / 2
    assert "the caller hung up" in server.log.read_text()


def test_a_full_queue_refuses_instead_of_letting_callers_wait(
    demo_model: Path, tmp_path: Path
) -> None:
    with Server.started(demo_model, tmp_path / "log", max_queue_length=2) as server:
        server.wait_until_ready()
        with ThreadPoolExecutor(8) as callers:
            answers = list(
                callers.map(
                    lambda _: httpx.post(server.url + PREDICT, json=LONG, timeout=120), [0] * 8
                )
            )

    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] * 3 + [429] * 5
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert "2 pictures are waiting" in refused.json()["error"]
    assert int(refused.headers["retry-after"]) > 0


def test_sigterm_fails_the_probes_serves_what_arrives_and_ends_well(
    demo_model: Path, tmp_path: Path
) -> None:
    with Server.started(demo_model, tmp_path / "log", drain_seconds=3) as server:
        server.wait_until_ready()
        with ThreadPoolExecutor(2) as callers:
            under_way = callers.submit(httpx.post, server.url + PREDICT, json=LONG, timeout=120)
            time.sleep(0.3)
            server.terminate()
            server.wait_for(f"/v2/models/{MODEL_NAME}/ready", status=503, seconds=2)
            server_ready = httpx.get(server.url + "/v2/health/ready").status_code
            late = callers.submit(httpx.post, server.url + PREDICT, json=SHORT, timeout=120)
            answers = [under_way.result(), late.result()]
        status = server.process.wait(timeout=60)

    assert server_ready == 503
    assert [answer.status_code for answer in answers] == [200, 200]
    assert status == 0


def test_sigterm_while_loading_ends_well(demo_model: Path, tmp_path: Path) -> None:
    with Server.started(demo_model, tmp_path / "log") as server:
        server.wait_for("/")
        server.terminate()
        assert server.process.wait(timeout=60) == 0
