"""CloudEvents on ``:predict``: each mode gets a response in the same mode."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from cloudevents.http import from_http
from PIL import Image

from predictor.edge.cloud_events import response_headers
from predictor.edge.data_plane import DiffusionDataPlane
from predictor.edge.draining import Drain
from predictor.edge.repository import AwaitedModels
from predictor.wire_formats import Message
from tests.serving import MODEL_NAME, PREDICT

SHORT = {"prompt": "a red star", "seed": 7, "num_inference_steps": 2}
ATTRIBUTES = {"id": "1", "source": "test", "type": "picture.wanted", "specversion": "1.0"}
BINARY = {f"ce-{name}": value for name, value in ATTRIBUTES.items()}
STRUCTURED = {"content-type": "application/cloudevents+json; charset=utf-8"}


def attributes_of(response: httpx.Response) -> dict[str, Any]:
    """The attributes of the event, read by the library of the CloudEvents project."""
    event = from_http(dict(response.headers), response.content, lambda data: data)
    return dict(event.get_attributes())


def check(attributes: dict[str, Any]) -> None:
    assert attributes["type"] == "io.kserve.inference.response"
    assert attributes["source"] == f"io.kserve.inference.{MODEL_NAME}"
    assert attributes["specversion"] == "1.0"
    assert attributes["id"] != ATTRIBUTES["id"]


def is_picture(data: bytes) -> bool:
    return Image.open(io.BytesIO(data)).size == (64, 64)


def test_a_binary_event_gets_a_picture_with_its_type(client: httpx.Client) -> None:
    response = client.post(PREDICT, json=SHORT, headers=BINARY)

    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-seed"] == "7"
    check(attributes_of(response))
    assert is_picture(response.content)


def test_a_binary_event_gets_predictions_as_json(client: httpx.Client) -> None:
    response = client.post(PREDICT, json={"instances": [SHORT]}, headers=BINARY)

    assert response.headers["content-type"] == "application/json"
    check(attributes_of(response))
    assert len(response.json()["predictions"]) == 1


@pytest.mark.parametrize("form", ["data", "data_base64"])
def test_a_structured_event_gets_a_picture_as_base64(client: httpx.Client, form: str) -> None:
    data: Any = SHORT if form == "data" else base64.b64encode(json.dumps(SHORT).encode()).decode()
    body = json.dumps({**ATTRIBUTES, form: data})

    response = client.post(PREDICT, content=body, headers=STRUCTURED)

    assert response.headers["content-type"] == "application/cloudevents+json"
    event = response.json()
    check(event)
    assert event["datacontenttype"] == "image/png"
    assert is_picture(base64.b64decode(event["data_base64"]))
    assert response.headers["x-seed"] == "7"


def test_a_structured_event_gets_predictions_as_data(client: httpx.Client) -> None:
    body = json.dumps({**ATTRIBUTES, "data": {"instances": [SHORT]}})

    event = client.post(PREDICT, content=body, headers=STRUCTURED).json()

    check(event)
    assert event["datacontenttype"] == "application/json"
    assert event["data"]["predictions"][0]["seed"] == 7


def noise() -> str:
    """A picture that does not compress, as base64 of a few hundred kilobytes."""
    stream = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    Image.fromarray(values).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


@pytest.mark.parametrize("form", ["data", "data_base64"])
def test_a_large_structured_event_is_served(client: httpx.Client, form: str) -> None:
    instance = SHORT | {"negative_prompt": "a, " * 1000}
    request = {"instances": [instance, instance | {"image": noise(), "num_inference_steps": 4}]}
    data: Any = request
    if form == "data_base64":
        data = base64.b64encode(json.dumps(request).encode()).decode()

    response = client.post(
        PREDICT, content=json.dumps({**ATTRIBUTES, form: data}), headers=STRUCTURED
    )

    event = response.json()
    check(event)
    first, second = event["data"]["predictions"]
    assert first["negative_prompt"] == "a, " * 1000
    assert second["input_image"]["sha256"]
    assert is_picture(base64.b64decode(first["image"]["b64"]))


def test_a_structured_event_is_not_parsed_on_the_event_loop() -> None:
    """KServe calls ``decode`` on the event loop; a large body is then read in another process."""
    body = json.dumps({**ATTRIBUTES, "data": {"prompt": "a star", "image": noise()}}).encode()

    payload, attributes = DiffusionDataPlane(AwaitedModels(), Drain()).decode(body, STRUCTURED)

    assert isinstance(payload, Message)
    assert payload.content is body
    assert not payload.is_small
    assert attributes == {}


@pytest.mark.parametrize("headers", [BINARY, STRUCTURED], ids=["binary", "structured"])
def test_an_event_can_get_a_stream(client: httpx.Client, headers: dict[str, str]) -> None:
    body = SHORT if headers is BINARY else {**ATTRIBUTES, "data": SHORT}

    response = client.post(
        PREDICT, content=json.dumps(body), headers=headers | {"accept": "text/event-stream"}
    )

    assert response.headers["content-type"].startswith("text/event-stream")
    assert "predictions" in response.text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": ""}, "id: is missing, but a CloudEvent requires it"),
        ({"source": None}, "source: is missing, but a CloudEvent requires it"),
        ({"specversion": "9"}, "specversion: must be one of 1.0, 0.3"),
        ({"data": "no object"}, 'the body must be a JSON object with "prompt" or "instances"'),
        ({"data": {"prompt": "x", "steps": 0}}, "steps: 0 is not between 1 and 150"),
        ({"data_base64": "?"}, "data_base64: is not valid base64"),
        ({"data_base64": 3}, "data_base64: is not valid base64"),
    ],
)
def test_a_wrong_event_is_explained(
    client: httpx.Client, change: dict[str, Any], expected: str
) -> None:
    body = json.dumps({**ATTRIBUTES, "data": SHORT} | change)

    response = client.post(PREDICT, content=body, headers=STRUCTURED)

    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert response.json()["error"].startswith(expected)


def test_an_error_of_a_binary_event_is_plain_json(client: httpx.Client) -> None:
    response = client.post(PREDICT, json={"prompt": ""}, headers=BINARY)

    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert "prompt" in response.json()["error"]


def test_a_batch_of_events_is_refused(client: httpx.Client) -> None:
    headers = {"content-type": "application/cloudevents-batch+json"}

    response = client.post(PREDICT, json=[ATTRIBUTES], headers=headers)

    assert response.status_code == 415
    assert "each event alone" in response.json()["error"]


def test_kserves_variables_change_the_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CE_TYPE", "picture.done")
    monkeypatch.setenv("CE_SOURCE", "studio")
    monkeypatch.setenv("CE_MERGE", "true")
    request = {**ATTRIBUTES, "subject": "s", "datacontenttype": "application/json"}

    headers = response_headers("m", request)

    assert headers["ce-type"] == "picture.done"
    assert headers["ce-source"] == "studio"
    assert headers["ce-subject"] == "s"
    assert "ce-datacontenttype" not in headers
