"""Progress as a stream of events: steps that grow, then the answer or the reason."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from demo.judge import look_at
from demo.shapes import Scene
from tests.predictor.metric_samples import samples, wait_for_metric
from tests.serving import PREDICT, Server

SCENE = Scene("blue", "star", "white")
EVENTS = {"accept": "text/event-stream"}
LONG = {
    "prompt": SCENE.prompt,
    "parameters": {
        "num_inference_steps": 150,
        "width": 128,
        "height": 128,
        "num_images_per_prompt": 12,
    },
}


def events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Name and data of each event, as they come."""
    name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def counts(server: Server) -> dict[str, float]:
    """The predict calls that have ended, by code; 200 and 500 are there from the beginning."""
    ended = samples(httpx.get(f"{server.url}/metrics").text, "diffusion_requests_total")
    return {sample.labels["code"]: sample.value for sample in ended}


def test_the_steps_are_told_and_the_answer_comes_last(client: httpx.Client) -> None:
    body = {
        "prompt": SCENE.prompt,
        "parameters": {"seed": 5, "num_images_per_prompt": 2, "num_inference_steps": 15},
    }
    with client.stream("POST", PREDICT, json=body, headers=EVENTS) as response:
        told = list(events(response.iter_lines()))

    assert response.headers["content-type"].startswith("text/event-stream")
    *progress, (name, answer) = told
    assert {name for name, _ in progress} == {"progress"}
    steps = [data["step"] for _, data in progress]
    assert steps == sorted(steps)
    assert len(set(steps)) > 3
    assert {data["steps"] for _, data in progress} == {30}
    assert name == "result"
    assert [one["seed"] for one in answer["predictions"]] == [5, 6]
    file = base64.b64decode(answer["predictions"][0]["image"]["b64"])
    assert look_at(Image.open(io.BytesIO(file))).shows(SCENE)


def test_what_is_wrong_from_the_start_has_its_status(client: httpx.Client) -> None:
    refused = client.post(PREDICT, json={"prompt": ""}, headers=EVENTS)

    assert refused.status_code == 400
    assert refused.json() == {"error": "prompt: is empty"}


def test_what_goes_wrong_later_is_the_last_event(demo_model: Path, tmp_path: Path) -> None:
    with Server.started(demo_model, tmp_path / "log", request_timeout_seconds=2) as server:
        server.wait_until_ready()
        with httpx.stream(
            "POST", server.url + PREDICT, json=LONG, headers=EVENTS, timeout=120
        ) as response:
            *progress, (name, data) = events(response.iter_lines())
        brief = {"prompt": "a red star", "num_inference_steps": 1}
        again = httpx.post(server.url + PREDICT, json=brief, timeout=120)
        ended = counts(server)

    assert ended == {"200": 1, "500": 0, "504": 1}
    assert response.status_code == 200
    assert progress
    assert name == "error"
    assert data["error"].startswith("not done within 2 s: at step ")
    assert again.status_code == 200


def test_a_reader_who_leaves_stops_the_work(demo_model: Path, tmp_path: Path) -> None:
    with Server.started(demo_model, tmp_path / "log") as server:
        server.wait_until_ready()
        with httpx.stream(
            "POST", server.url + PREDICT, json=LONG, headers=EVENTS, timeout=120
        ) as response:
            next(events(response.iter_lines()))
        server.wait_for_log("the caller left at step")
        wait_for_metric(server.url, "diffusion_requests_total", 1, code="499")
        log, ended = server.log.read_text(), counts(server)

    assert ended == {"200": 0, "500": 0, "499": 1}
    assert "Traceback" not in log
