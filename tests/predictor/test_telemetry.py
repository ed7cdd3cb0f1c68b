"""What an operator sees of each request of a running server: identifiers, log lines, metrics."""

from __future__ import annotations

import asyncio
import re
from typing import Any, get_args
from unittest.mock import AsyncMock

import httpx
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from predictor.edge.observer import CallObserver
from predictor.edge.refusals import refusal_of
from predictor.edge.telemetry import TelemetryMiddleware
from predictor.edge.tracing import Tracing
from predictor.errors import (
    InvalidRequestError,
    OverloadedError,
    PredictorError,
    RefusedBySafetyError,
    ShuttingDownError,
)
from predictor.metrics import Refusal
from predictor.request_context import current_request
from predictor.requests import GenerationRequest, GenerationResult
from predictor.stages import Stage
from tests.predictor.metric_samples import samples
from tests.serving import MODEL_NAME, PREDICT, SHORT, Server

STAGES = ("parse", "queue", "prepare", "text", "denoise", "decode", "encode")
TRACE = "0af7651916cd43dd8448eb211c80319c"
# A request, and the status of its response.
REQUESTS: list[tuple[str, str, dict[str, Any], int]] = [
    ("POST", PREDICT, {"json": SHORT}, 200),
    ("POST", PREDICT, {"json": SHORT, "headers": {"accept": "text/event-stream"}}, 200),
    ("POST", PREDICT, {"json": {"prompt": ""}}, 400),
    ("POST", PREDICT, {"content": b"x" * 17_000_000}, 413),
    ("POST", "/v1/models/another:predict", {"json": SHORT}, 404),
    ("GET", "/no-such-path", {}, 404),
    ("DELETE", "/v2/models", {}, 405),
    ("GET", "/v2/health/ready", {}, 200),
    ("GET", "/metrics", {}, 200),
]


@pytest.mark.parametrize(("method", "path", "options", "status"), REQUESTS)
def test_every_response_has_the_identifier_of_its_request(
    client: httpx.Client, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    headers = options.get("headers", {})

    def identifier(given: str | None) -> str:
        own = {"x-request-id": given} if given else {}
        response = client.request(method, path, **options | {"headers": headers | own})
        assert response.status_code == status
        return response.headers["x-request-id"]

    assert identifier("order-66.a_B") == "order-66.a_B"
    made = {identifier(None), identifier("two words"), identifier("x" * 129)}
    assert len(made) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


def test_every_line_of_a_request_has_its_identifiers(client: httpx.Client, server: Server) -> None:
    before = server.log.read_text()
    headers = {"x-request-id": "find-me", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}

    client.post(f"{PREDICT}?prompt=secret", json=SHORT, headers=headers)

    lines = server.log.read_text().removeprefix(before).splitlines()
    assert len(lines) == 2
    assert all(f"[find-me {TRACE}] " in line for line in lines)
    assert re.search(r' \d+\.\d{3} s - "POST [^ ]*:predict HTTP/1.1" 200 OK$', lines[-1])


def test_an_identifier_cannot_forge_a_line(client: httpx.Client, server: Server) -> None:
    before = server.log.read_text()

    client.get("/a%0Aforged line", headers={"x-request-id": "forged line"})

    (line,) = server.log.read_text().removeprefix(before).splitlines()
    assert '"GET /a%0Aforged%20line HTTP/1.1" 404' in line
    assert "forged line" not in line


def scraped(client: httpx.Client, name: str, label: str) -> dict[str, float]:
    """The values of a metric by one of its labels."""
    found = samples(client.get("/metrics").text, name)
    return {sample.labels[label]: sample.value for sample in found}


def test_each_stage_and_the_size_of_a_call_are_counted(client: httpx.Client) -> None:
    def counts() -> dict[str, float]:
        return scraped(client, "diffusion_stage_seconds_count", "stage")

    def megapixels() -> float:
        return scraped(client, "diffusion_megapixels_total", "model_name")[MODEL_NAME]

    client.post(PREDICT, json=SHORT)
    before, size = counts(), megapixels()
    sizes = {"width": 64, "height": 128, "num_images_per_prompt": 2}
    client.post(PREDICT, json={"prompt": "a star", "num_inference_steps": 1} | sizes)
    client.post(PREDICT, json={"prompt": "a star", "width": 1})

    pictures = dict.fromkeys(STAGES, 2) | {"parse": 2, "encode": 1}
    assert {stage: counts()[stage] - before[stage] for stage in STAGES} == pictures
    assert megapixels() - size == pytest.approx(2 * 64 * 128 / 1e6)


def test_the_stages_of_a_call_add_up_to_its_duration(client: httpx.Client) -> None:
    def seconds(name: str, label: str) -> float:
        return sum(scraped(client, name, label).values())

    stages = seconds("diffusion_stage_seconds_sum", "stage")
    calls = seconds("diffusion_request_seconds_sum", "model_name")
    client.post(PREDICT, json={"prompt": "a star", "num_inference_steps": 20})
    stages = seconds("diffusion_stage_seconds_sum", "stage") - stages
    calls = seconds("diffusion_request_seconds_sum", "model_name") - calls

    assert 0.5 * calls < stages <= calls


def test_refusals_are_counted_by_reason(client: httpx.Client) -> None:
    before = scraped(client, "diffusion_refused_total", "reason")
    for method, path, options, _ in REQUESTS:
        client.request(method, path, **options)
    after = scraped(client, "diffusion_refused_total", "reason")

    assert before.keys() == set(get_args(Refusal))
    changed = {reason: after[reason] - before[reason] for reason in after}
    assert {reason: count for reason, count in changed.items() if count} == {
        "invalid": 2,
        "too_large": 1,
        "not_found": 2,
    }


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (OverloadedError, 429, "queue"),
        (RefusedBySafetyError, 400, "safety"),
        (InvalidRequestError, 400, "invalid"),
        (ShuttingDownError, 503, "draining"),
        (PredictorError, 503, "unavailable"),
        (None, 429, "limit"),
        (None, 401, "key"),
        (None, 431, "too_large"),
        (None, 200, None),
        (None, 499, None),
        (PredictorError, 500, None),
        (PredictorError, 504, None),
    ],
)
def test_a_refusal_has_one_reason(
    error: type[Exception] | None, status: int, reason: str | None
) -> None:
    assert refusal_of(error, status) == reason


def test_labels_have_bounded_values(client: httpx.Client) -> None:
    """Nothing that a caller sends becomes a label."""
    for word in ("forged", "x" * 200):
        body = SHORT | {word: 1, "scheduler": word, "adapters": [{"name": word}]}
        for path in (PREDICT, f"/v1/models/{word}:predict", f"/{word}", f"/v1/models/{word}"):
            headers = {"x-request-id": word, "authorization": f"Bearer {word}"}
            client.post(path, json=body, headers=headers)
            client.request("PATCH", path, json=body, headers=headers)
    allowed: dict[str, set[str]] = {
        "model_name": {MODEL_NAME},
        "stage": set(get_args(Stage)),
        "reason": {*get_args(Refusal), "grown", "shrunk"},
        "state": {"waiting", "in_flight"},
        "outcome": {"loaded", "failed"},
        "layer": {"block_list", "safety_checker", "safety_classifier"},
        "action": {"pass", "flag", "blur", "block", "error"},
        "how": {"graph", "eager"},
        "key": set(),
    }

    families = text_string_to_metric_families(client.get("/metrics").text)
    values: dict[str, set[str]] = {}
    for family in families:
        if family.name.startswith("diffusion_"):
            for sample in family.samples:
                for label, value in sample.labels.items():
                    values.setdefault(label, set()).add(value)
    codes, bounds = values.pop("code"), values.pop("le")

    assert all(re.fullmatch("[1-5][0-9][0-9]", code) for code in codes)
    assert len(bounds) < 40
    assert values.keys() <= allowed.keys()
    assert [label for label, found in values.items() if not found <= allowed[label]] == []


class InstantEngine:
    """Returns a result without a picture."""

    async def submit(
        self, request: GenerationRequest, on_step: object, previews: object
    ) -> GenerationResult:
        return GenerationResult(request, None, seconds=1.0)


def test_requests_and_pictures_are_counted_by_key_once_a_key_is_known() -> None:
    request = GenerationRequest("a star", "", 1, 1000, 500, 1, 1.0, "unipc")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        # As the middleware that checks keys does.
        current_request().caller = scope["path"].strip("/")
        observer = CallObserver("of-keys", log_prompts=False)
        await observer.generate(InstantEngine(), request, lambda step, steps: None)  # type: ignore[arg-type]
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b""})

    async def call(path: str) -> None:
        scope = {"type": "http", "method": "POST", "path": path, "headers": []}
        await TelemetryMiddleware(app, Tracing())(scope, AsyncMock(), AsyncMock())

    for path in ("/team-a", "/team-a", "/team-b", "/"):
        asyncio.run(call(path))

    def value(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(name, labels)

    assert value("diffusion_key_megapixels_total", key="team-a") == 1.0
    assert value("diffusion_megapixels_total", model_name="of-keys") == 2.0
