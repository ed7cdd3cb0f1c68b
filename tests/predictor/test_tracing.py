"""Traces: a span for each call and each of its stages, over OTLP to a real collector."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from demo.run import free_port
from predictor.edge.tracing import Tracing
from predictor.errors import GenerationFailedError
from predictor.request_context import RequestContext
from tests.predictor.otlp_collector import Collector, attributes
from tests.serving import MODEL_NAME, PREDICT, Server

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
STAGES = ["parse", "queue", "prepare", "text", "denoise", "decode", "encode"]
MAGIC = "xyzzy"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector.started() as running:
        yield running


@pytest.fixture(scope="module")
def traced(
    demo_model: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server that sends its traces to the collector every 100 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        with Server.started(demo_model, tmp_path_factory.mktemp("traced") / "log") as server:
            server.wait_until_ready()
            yield server


def trace_of(
    server: Server, collector: Collector, body: dict[str, Any], spans: int, **headers: str
) -> tuple[Any, list[Any]]:
    """Send one call; return the span of the call and those of its stages by start."""
    collector.spans.clear()
    httpx.post(server.url + PREDICT, json=body, headers=headers, timeout=60)
    found = collector.wait_for(spans)
    (call,) = [span for span in found if span.name.startswith("POST")]
    stages = [span for span in found if span is not call]
    return call, sorted(stages, key=lambda span: span.start_time_unix_nano)


def test_a_call_is_a_span_with_one_child_for_each_stage(
    traced: Server, collector: Collector
) -> None:
    sent = time.time_ns()
    body = {"prompt": MAGIC, "seed": 7, "num_inference_steps": 2, "width": 64, "height": 64}
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "find-me"}
    call, stages = trace_of(traced, collector, body, 8, **headers)
    received = time.time_ns()

    assert call.name == "POST /v1/models/{model_name}:predict"
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
    assert {span.trace_id.hex() for span in stages} == {TRACE}
    assert {span.parent_span_id for span in stages} == {call.span_id}
    assert [span.name for span in stages] == STAGES
    assert all(
        call.start_time_unix_nano <= span.start_time_unix_nano < span.end_time_unix_nano
        and span.end_time_unix_nano <= call.end_time_unix_nano
        for span in stages
    )
    # Two clocks are compared, so allow them a moment.
    assert sent - 50_000_000 <= call.start_time_unix_nano
    assert call.end_time_unix_nano <= received + 50_000_000
    assert call.status.code == 0
    assert (
        attributes(call).items()
        >= {
            "http.request.method": "POST",
            "http.route": "/v1/models/{model_name}:predict",
            "http.response.status_code": 200,
            "gen_ai.request.model": MODEL_NAME,
            "gen_ai.request.seed": 7,
            "gen_ai.output.type": "image",
            "diffusion.num_inference_steps": 2,
            "diffusion.width": 64,
            "diffusion.scheduler": "unipc",
        }.items()
    )
    assert attributes(call)["http.request.header.x-request-id"] == ["find-me"]
    assert (
        collector.resources[-1].items()
        >= {
            "service.name": MODEL_NAME,
            "deployment.environment.name": "test",
        }.items()
    )
    assert MAGIC not in str(call) + str(stages)


def test_the_stages_of_each_picture_have_its_seed(traced: Server, collector: Collector) -> None:
    body = {"prompt": "a star", "seed": 7, "num_inference_steps": 1, "num_images_per_prompt": 2}
    call, stages = trace_of(traced, collector, body, 13)

    seeds = {span.name: set[Any]() for span in stages}
    for span in stages:
        seeds[span.name].add(attributes(span).get("gen_ai.request.seed"))
    assert {name for name, own in seeds.items() if own == {None}} == {"parse", "encode"}
    assert seeds["denoise"] == {7, 8}
    assert attributes(call)["gen_ai.request.choice.count"] == 2


def test_a_call_without_a_parent_starts_a_trace_that_the_log_names(
    traced: Server, collector: Collector
) -> None:
    call, stages = trace_of(traced, collector, {"prompt": ""}, 2)

    assert call.parent_span_id == b""
    assert [span.name for span in stages] == ["parse"]
    # An error of the caller is not one of the server.
    assert call.status.code == 0
    assert attributes(call)["http.response.status_code"] == 400
    assert traced.wait_for_log(rf"\[\w+ {call.trace_id.hex()}\] .* 400 Bad Request")


def test_the_last_spans_are_sent_at_the_end_and_show_prompts_on_request(
    demo_model: Path, tmp_path: Path
) -> None:
    with Collector.started() as collector, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/v1/traces")
        patch.setenv("OTEL_SERVICE_NAME", "painter")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
        with Server.started(demo_model, tmp_path / "log", log_prompts=True) as server:
            server.wait_until_ready()
            body = {"prompt": "a\nstar", "num_inference_steps": 1}
            httpx.post(server.url + PREDICT, json=body, timeout=60)
            assert collector.spans == []
            server.terminate()
            assert server.process.wait(timeout=60) == 0

    assert server.wait_for_log("prompts: .*")[0] == r'prompts: ["a\nstar"]'
    (call,) = [span for span in collector.spans if span.name.startswith("POST")]
    assert attributes(call)["diffusion.prompts"] == r'["a\nstar"]'
    assert len(collector.spans) == 8
    assert collector.resources[0]["service.name"] == "painter"


def test_without_a_collector_the_server_answers_and_ends(demo_model: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
        with Server.started(demo_model, tmp_path / "log") as server:
            server.wait_until_ready()
            body = {"prompt": "a star", "num_inference_steps": 1}
            status = httpx.post(server.url + PREDICT, json=body, timeout=60).status_code
            server.terminate()
            # The last attempt to send is cut off long before this.
            assert server.process.wait(timeout=60) == 0

    assert status == 200
    assert "Traceback" not in server.log.read_text()


def recorded(status: int, error: type[Exception] | None) -> Any:
    """The span of a call that ends with ``status``."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    request = RequestContext("id", error=error)
    scope = {"type": "http", "method": "POST", "path": PREDICT, "headers": []}
    span = Tracing(provider).start(scope, request)
    assert span
    span.end(status)
    (finished,) = exporter.get_finished_spans()
    return finished


@pytest.mark.parametrize(
    ("status", "error", "code", "error_type"),
    [
        (200, None, StatusCode.UNSET, None),
        (429, GenerationFailedError, StatusCode.UNSET, None),
        (499, None, StatusCode.UNSET, None),
        (500, GenerationFailedError, StatusCode.ERROR, "GenerationFailedError"),
        (503, None, StatusCode.ERROR, "503"),
    ],
)
def test_an_error_of_the_server_is_the_status_of_its_span(
    status: int, error: type[Exception] | None, code: StatusCode, error_type: str | None
) -> None:
    span = recorded(status, error)

    assert span.status.status_code is code
    assert span.attributes.get("error.type") == error_type


def test_only_predict_calls_are_traced() -> None:
    tracing = Tracing(TracerProvider(shutdown_on_exit=False))
    scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": []}

    assert tracing.start(scope, RequestContext("id")) is None


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SERVICE_NAME": "painter"},
        ENDPOINT | {"OTEL_SDK_DISABLED": "true"},
        ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_traces_are_off(environment: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    tracing = Tracing.from_environment("painter", environment)

    assert tracing.start({"path": PREDICT}, RequestContext("id")) is None
    assert caplog.records == []


def test_another_protocol_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    environment = ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}

    tracing = Tracing.from_environment("painter", environment)

    assert tracing.start({"path": PREDICT}, RequestContext("id")) is None
    assert [record.getMessage() for record in caplog.records] == [
        "the OTLP protocol is grpc, but only http/protobuf is supported, so there are no traces"
    ]


def test_a_missing_library_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)

    tracing = Tracing.from_environment("painter", ENDPOINT)

    assert tracing.start({"path": PREDICT}, RequestContext("id")) is None
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "install the extra `tracing`" in warning.getMessage()


def test_the_library_is_imported_only_with_an_endpoint() -> None:
    code = (
        "import sys; from predictor.edge.server import Tracing; "
        "Tracing.from_environment('x', {}).close(); "
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )

    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("path", "route"),
    [
        (PREDICT, "/v1/models/{model_name}:predict"),
        ("/openai/v1/images/edits", "/openai/v1/images/edits"),
        ("/v1/models/any/picture", "/v1/models/{model_name}/picture"),
        ("/v1/models/any", None),
        ("/openai/v1/models", None),
    ],
)
def test_calls_of_all_protocols_are_traced_by_route(path: str, route: str | None) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    scope = {"type": "http", "method": "POST", "path": path, "headers": []}

    if span := Tracing(provider).start(scope, RequestContext("id")):
        span.end(200)

    found = [
        one.attributes and one.attributes["http.route"] for one in exporter.get_finished_spans()
    ]
    assert found == ([route] if route else [])
