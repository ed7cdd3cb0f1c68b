"""Probes, requests and shutdown of a server whose engine has ended or hangs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from demo.run import publish
from tests.predictor.metric_samples import metric, samples
from tests.serving import MODEL_NAME, PREDICT, ROOT, Server

FAULTY = "tests.predictor.faulty_server"
LIVENESS = ("/", "/v2/health/live")
READINESS = ("/v2/health/ready", f"/v2/models/{MODEL_NAME}/ready", f"/v1/models/{MODEL_NAME}")


@pytest.fixture
def faulty(demo_model: Path, tmp_path: Path) -> Iterator[Server]:
    settings = {"engine_stall_seconds": 2, "drain_seconds": 1}
    with Server.started(demo_model, tmp_path / "log", module=FAULTY, **settings) as server:
        server.wait_until_ready()
        yield server


def test_the_manifests_probe_the_routes_that_report_the_engine() -> None:
    documents = yaml.safe_load_all((ROOT / "manifests" / "03-inference-service.yaml").read_text())
    service = next(one for one in documents if one["kind"] == "InferenceService")
    (container,) = service["spec"]["predictor"]["containers"]
    (flag,) = [one for one in container["args"] if one.startswith("--model_name=")]
    readiness = [path.replace(MODEL_NAME, flag.partition("=")[2]) for path in READINESS]

    assert container["livenessProbe"]["httpGet"]["path"] in LIVENESS
    assert container["readinessProbe"]["httpGet"]["path"] in readiness


def predict(server: Server, prompt: str, path: str = PREDICT) -> httpx.Response:
    body = {"prompt": prompt, "parameters": {"num_inference_steps": 1}}
    return httpx.post(server.url + path, json=body, timeout=60)


def statuses(server: Server, *paths: str) -> set[int]:
    return {httpx.get(server.url + path, timeout=10).status_code for path in paths}


def seconds_to_exit(server: Server) -> float:
    started = time.monotonic()
    server.terminate()
    assert server.process.wait(timeout=60) == 0
    return time.monotonic() - started


@pytest.mark.parametrize(
    ("prompt", "logged", "reason"),
    [
        ("exit", "the engine has stopped: its thread ended", "its thread ended with an error"),
        ("hang", "the engine hangs: a prompt encoding takes", "a prompt encoding takes longer"),
    ],
)
def test_an_engine_that_ends_or_hangs_fails_the_probes_and_all_requests(
    faulty: Server, prompt: str, logged: str, reason: str
) -> None:
    healthy = statuses(faulty, *LIVENESS, *READINESS)
    up = metric(faulty.url, "diffusion_engine_up")
    failed = predict(faulty, prompt)
    faulty.wait_for_log(logged)
    refused = predict(faulty, "a red star")
    live, ready = statuses(faulty, *LIVENESS), statuses(faulty, *READINESS)
    probe = httpx.get(faulty.url + "/")
    down = metric(faulty.url, "diffusion_engine_up")
    seconds = seconds_to_exit(faulty)
    log = faulty.log.read_text()

    assert (healthy, up) == ({200}, 1)
    assert failed.status_code == 500
    assert "the engine stopped" in failed.json()["error"]
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    assert (live, ready, down) == ({503}, {503}, 0)
    assert f"model '{MODEL_NAME}'" in probe.json()["error"]
    assert reason in probe.json()["error"]
    assert log.count(logged) == 1
    # Without an engine there is nothing to wait for but the drain; a hanging one is left behind.
    assert seconds < 20


def test_one_dead_engine_fails_the_liveness_of_all_models(tmp_path: Path) -> None:
    for name in ("first", "second"):
        publish(name, tmp_path / "volume")
    settings = {"memory_budget_gib": 1, "max_lanes": 2}
    with Server.started(tmp_path / "volume", tmp_path / "log", module=FAULTY, **settings) as server:
        server.wait_for("/v2/health/ready")
        before = predict(server, "a red star", "/v1/models/second:predict")
        dead = predict(server, "exit", "/v1/models/first:predict")
        refused = predict(server, "a red star", "/v1/models/first:predict")
        other = predict(server, "a red star", "/v1/models/second:predict")
        live, ready = statuses(server, *LIVENESS), statuses(server, "/v2/health/ready")
        models = (
            statuses(server, "/v2/models/first/ready"),
            statuses(server, "/v2/models/second/ready"),
        )
        up = samples(httpx.get(server.url + "/metrics").text, "diffusion_engine_up")

    assert (before.status_code, dead.status_code, refused.status_code) == (200, 500, 503)
    assert "has stopped or hangs" in refused.json()["error"]
    assert other.status_code == 200
    assert (live, ready, models) == ({503}, {503}, ({503}, {200}))
    assert {one.labels["model_name"]: one.value for one in up} == {"first": 0, "second": 1}
