"""Progress as a stream of events: increasing steps, then the result or an error."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from demo.judge import look_at
from demo.shapes import Scene
from tests.predictor.metric_samples import samples, wait_for_metric
from tests.serving import LONG, PREDICT, Server

SCENE = Scene("blue", "star", "white")
EVENTS = {"accept": "text/event-stream"}


def events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Yield the name and data of each event."""
    name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def counts(server: Server) -> dict[str, float]:
    """The finished predict calls by code; 200 and 500 exist from the start."""
    ended = samples(httpx.get(f"{server.url}/metrics").text, "diffusion_requests_total")
    return {sample.labels["code"]: sample.value for sample in ended}


def test_progress_events_precede_the_result(client: httpx.Client) -> None:
    body = {
        "prompt": SCENE.prompt,
        "parameters": {"seed": 5, "num_images_per_prompt": 2, "num_inference_steps": 15},
    }
    with client.stream("POST", PREDICT, json=body, headers=EVENTS) as response:
        received = list(events(response.iter_lines()))

    assert response.headers["content-type"].startswith("text/event-stream")
    *progress, (name, answer) = received
    assert {name for name, _ in progress} == {"progress"}
    steps = [data["step"] for _, data in progress]
    assert steps == sorted(steps)
    assert len(set(steps)) > 3
    assert {data["steps"] for _, data in progress} == {30}
    assert name == "result"
    assert [one["seed"] for one in answer["predictions"]] == [5, 6]
    file = base64.b64decode(answer["predictions"][0]["image"]["b64"])
    assert look_at(Image.open(io.BytesIO(file))).shows(SCENE)


def test_previews_show_the_prompt_before_the_picture_is_done(client: httpx.Client) -> None:
    scene = Scene("red", "circle", "blue")
    body = {"prompt": scene.prompt, "seed": 5, "num_inference_steps": 16, "previews": 3}
    received = streamed(client, body)
    alone = client.post(PREDICT, json={**body, "previews": 0})

    *before, (name, answer) = received
    previews = [data for name, data in before if name == "preview"]
    assert name == "result"
    assert [one["picture"] for one in previews] == [0] * len(previews)
    assert {one["steps"] for one in previews} == {16}
    last = previews[-1]
    assert last["step"] == 12
    assert last["image"]["format"] == "jpeg"
    preview, picture = (opened(one["image"]["b64"]) for one in (last, answer["predictions"][0]))
    assert look_at(preview).shows(scene)
    assert preview.size == picture.size
    first = opened(previews[0]["image"]["b64"])
    assert distance(preview, picture) < distance(first, picture)
    # A preview has no effect on the picture or its metadata.
    assert picture.tobytes() == Image.open(io.BytesIO(alone.content)).convert("RGB").tobytes()
    assert "previews" not in answer["predictions"][0]


def test_each_picture_of_a_call_has_its_previews(client: httpx.Client) -> None:
    body = {"prompt": SCENE.prompt, "n": 2, "num_inference_steps": 24, "previews": 2}

    previews = [data for name, data in streamed(client, body) if name == "preview"]

    assert previews
    assert {one["picture"] for one in previews} <= {0, 1}


def test_previews_have_a_bound_and_no_effect_without_a_stream(client: httpx.Client) -> None:
    too_many = client.post(PREDICT, json={"prompt": "a star", "previews": 9}, headers=EVENTS)
    plain = client.post(PREDICT, json={"prompt": "a star", "previews": 8, "steps": 4})

    assert too_many.status_code == 400
    assert too_many.json() == {"error": "previews: 9 is not between 0 and 8"}
    assert plain.headers["content-type"] == "image/png"


def streamed(client: httpx.Client, body: dict[str, Any]) -> list[tuple[str, Any]]:
    with client.stream("POST", PREDICT, json=body, headers=EVENTS) as response:
        return list(events(response.iter_lines()))


def opened(b64: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64))).convert("RGB")


def distance(left: Image.Image, right: Image.Image) -> float:
    return float(np.abs(np.asarray(left, float) - np.asarray(right, float)).mean())


def test_an_invalid_request_gets_its_own_status(client: httpx.Client) -> None:
    refused = client.post(PREDICT, json={"prompt": ""}, headers=EVENTS)

    assert refused.status_code == 400
    assert refused.json() == {"error": "prompt: is empty"}


def test_a_later_failure_is_the_last_event(demo_model: Path, tmp_path: Path) -> None:
    with Server.started(demo_model, tmp_path / "log", request_timeout_seconds=2) as server:
        server.wait_until_ready()
        with httpx.stream(
            "POST", server.url + PREDICT, json=LONG, headers=EVENTS, timeout=120
        ) as response:
            *progress, (name, data) = events(response.iter_lines())
        short = {"prompt": "a red star", "num_inference_steps": 1}
        again = httpx.post(server.url + PREDICT, json=short, timeout=120)
        ended = counts(server)

    assert ended == {"200": 1, "500": 0, "504": 1}
    assert response.status_code == 200
    assert progress
    assert name == "error"
    assert data.pop("error").startswith("not done within 2 s: at step ")
    assert data == {"status": 504}
    assert again.status_code == 200


def test_a_disconnected_reader_stops_the_work(demo_model: Path, tmp_path: Path) -> None:
    with Server.started(demo_model, tmp_path / "log") as server:
        server.wait_until_ready()
        body = LONG | {"previews": 8}
        with httpx.stream(
            "POST", server.url + PREDICT, json=body, headers=EVENTS, timeout=120
        ) as response:
            progress = events(response.iter_lines())
            while next(progress)[1]["step"] == 0:
                pass
        server.wait_for_log("the caller left at step")
        wait_for_metric(server.url, "diffusion_requests_total", 1, code="499")
        log, ended = server.log.read_text(), counts(server)

    assert ended == {"200": 0, "500": 0, "499": 1}
    assert "Traceback" not in log
