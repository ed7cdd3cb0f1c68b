"""The metrics of a running server: calls by status, and the engine's load."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import httpx
import pytest
from prometheus_client import REGISTRY

from predictor.edge.middleware import MetricsMiddleware
from predictor.edge.stream import LastEvent
from predictor.engine.interfaces import EngineState
from predictor.metrics import REQUEST_SECONDS, EngineCollector
from tests.predictor.metric_samples import metric, wait_for_metric
from tests.serving import LONG, PREDICT, SHORT, Server

ROOT = Path(__file__).resolve().parent.parent.parent


def test_calls_are_counted_by_status(client: httpx.Client, server: Server) -> None:
    def counts() -> list[float]:
        return [
            metric(server.url, "diffusion_requests_total", code=code) for code in ("200", "400")
        ]

    before, timed = counts(), metric(server.url, "diffusion_request_seconds_count")
    client.post(PREDICT, json=SHORT)
    client.post(PREDICT, json={"prompt": ""})
    client.post("/v1/models/another:predict", json=SHORT)

    assert counts() == [number + 1 for number in before]
    assert metric(server.url, "diffusion_request_seconds_count") == timed + 2
    assert 'model_name="another"' not in httpx.get(f"{server.url}/metrics").text


def test_pictures_are_counted_while_they_wait_and_are_in_flight(server: Server) -> None:
    left = metric(server.url, "diffusion_requests_total", code="499")
    with ThreadPoolExecutor(1) as caller:
        pending = caller.submit(httpx.post, server.url + PREDICT, json=LONG, timeout=5)
        wait_for_metric(server.url, "diffusion_pictures", 1, state="in_flight")
        total = sum(
            metric(server.url, "diffusion_pictures", state=state)
            for state in ("waiting", "in_flight")
        )
        with pytest.raises(httpx.ReadTimeout):
            pending.result()
    wait_for_metric(server.url, "diffusion_requests_total", left + 1, code="499")

    assert total <= 12
    assert metric(server.url, "diffusion_lanes") >= 2
    assert metric(server.url, "diffusion_out_of_memory_total") == 0


def test_changes_of_the_batch_size_are_counted_by_reason() -> None:
    state = EngineState(0, 0, lanes=16, out_of_memory=0, capacity_changes={"grown": 3, "shrunk": 1})
    collector = EngineCollector()
    collector.watch("m", SimpleNamespace(state=state))  # type: ignore[arg-type]

    samples = [sample for found in collector.collect() for sample in found.samples]

    assert {
        sample.labels["reason"]: sample.value
        for sample in samples
        if sample.name == "diffusion_capacity_changes_total"
    } == {"grown": 3, "shrunk": 1}
    assert [one.value for one in samples if one.name == "diffusion_lanes"] == [16]


def test_the_document_names_every_metric(server: Server) -> None:
    text = httpx.get(f"{server.url}/metrics").text
    exported = set(re.findall(r"^# TYPE (diffusion_\w+) ", text, re.MULTILINE))
    api = (ROOT / "docs" / "api.md").read_text("utf-8")

    documented = set(re.findall(r"^\| `(diffusion_\w+)` \|", api, re.MULTILINE))

    assert documented == {name for name in exported if not name.endswith("_created")}
    assert REQUEST_SECONDS._upper_bounds[-2] == 600


START = {"type": "http.response.start", "status": 200}
PIECE = {"type": "http.response.body", "body": b"event", "more_body": True}
END = {"type": "http.response.body", "body": b""}


def ending(status: HTTPStatus) -> dict[str, Any]:
    return PIECE | {"body": LastEvent(b"event", status)}


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([START, PIECE, END], 200),
        ([START, PIECE, ending(HTTPStatus.OK), END], 200),
        ([START, PIECE, ending(HTTPStatus.GATEWAY_TIMEOUT), END], 504),
        ([START, ending(HTTPStatus.SERVICE_UNAVAILABLE)], 503),
        ([START, PIECE], 499),
        ([], 499),
    ],
)
def test_a_call_is_counted_by_the_end_of_its_response(
    messages: list[dict[str, Any]], code: int
) -> None:
    name = f"model-{code}-{len(messages)}"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    async def call() -> None:
        scope = {"type": "http", "path": f"/v1/models/{name}:predict"}
        middleware = MetricsMiddleware(app, is_served=lambda served: served == name)
        await middleware(scope, AsyncMock(), AsyncMock())

    asyncio.run(call())

    assert REGISTRY.get_sample_value(
        "diffusion_requests_total", {"model_name": name, "code": str(code)}
    )
