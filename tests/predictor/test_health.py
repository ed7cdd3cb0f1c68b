"""Probes and KServe's routes, before the model is loaded and while the engine is busy."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from modelstore import MARKER_NAME
from tests.serving import MODEL_NAME, PREDICT, Server


def test_the_port_answers_before_the_model_is_loaded(demo_model: Path, tmp_path: Path) -> None:
    with Server.started(demo_model, tmp_path / "log") as server:
        server.wait_for("/")
        statuses = {
            path: httpx.get(server.url + path).status_code
            for path in (
                "/v2/health/live",
                "/v2/health/ready",
                f"/v1/models/{MODEL_NAME}",
                f"/v2/models/{MODEL_NAME}/ready",
            )
        }
        early = httpx.post(server.url + PREDICT, json={"prompt": "a red star"})
        server.wait_until_ready()
        late = httpx.post(server.url + PREDICT, json={"prompt": "a red star"}, timeout=60)

    assert list(statuses.values()) == [200, 503, 503, 503]
    assert early.status_code == 503
    assert "not ready" in early.json()["error"]
    assert int(early.headers["retry-after"]) > 0
    assert late.status_code == 200


def test_health_answers_while_a_picture_is_generated(client: httpx.Client, server: Server) -> None:
    def send_a_long_request() -> tuple[httpx.Response, float]:
        parameters = {"num_inference_steps": 60, "width": 256, "height": 256}
        body = {"prompt": "a red star", "parameters": parameters}
        return client.post(PREDICT, json=body), time.perf_counter()

    with ThreadPoolExecutor(1) as caller, httpx.Client(base_url=server.url) as prober:
        work = caller.submit(send_a_long_request)
        latencies, answered = [], []
        while not work.done():
            started = time.perf_counter()
            assert prober.get("/v2/health/ready").status_code == 200
            answered.append(time.perf_counter())
            latencies.append(answered[-1] - started)
            time.sleep(0.02)
        response, finished = work.result()

    assert response.status_code == 200
    assert sum(moment < finished for moment in answered) > 10
    # A blocked event loop would answer once, after the whole picture.
    assert statistics.median(latencies) < 0.1


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", {"status": "alive"}),
        (f"/v1/models/{MODEL_NAME}", {"name": MODEL_NAME, "ready": True}),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        (f"/v2/models/{MODEL_NAME}/ready", {"name": MODEL_NAME, "ready": True}),
    ],
)
def test_kserves_routes_answer(client: httpx.Client, path: str, expected: object) -> None:
    assert client.get(path).json() == expected


def test_kserves_list_has_the_model(client: httpx.Client) -> None:
    assert client.get("/v1/models").json()["models"] == [MODEL_NAME]
    assert client.get("/v2/models").json() == {"models": [MODEL_NAME]}


def test_metrics_count_predictions(client: httpx.Client) -> None:
    def count() -> float:
        lines = client.get("/metrics").text.splitlines()
        name = f'request_predict_seconds_count{{model_name="{MODEL_NAME}"}}'
        return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0)

    before = count()
    client.post(PREDICT, json={"prompt": "a red star", "parameters": {"num_inference_steps": 1}})

    assert count() == before + 1


def test_settings_that_forbid_the_models_defaults_end_the_process(
    demo_model: Path, tmp_path: Path
) -> None:
    with Server.started(demo_model, tmp_path / "log", max_num_inference_steps=10) as server:
        assert server.process.wait(timeout=60) == 1

    last_line = server.log.read_text().splitlines()[-1]
    assert "own defaults: num_inference_steps: 20 is not between 1 and 10" in last_line


def test_the_model_cannot_be_unloaded_over_http(client: httpx.Client) -> None:
    response = client.post(f"/v2/repository/models/{MODEL_NAME}/unload")

    assert response.status_code == 501
    assert client.get("/v1/models").json()["models"] == [MODEL_NAME]


def broken(demo_model: Path, folder: Path) -> Path:
    return Path(shutil.copytree(demo_model, folder))


def without_marker(folder: Path) -> None:
    (folder / MARKER_NAME).unlink()


def with_a_truncated_file(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def with_wrong_defaults(folder: Path) -> None:
    (folder / "generation_defaults.json").write_text('{"num_inference_steps": "20"}')
    update_sizes(folder)


def with_weights_of_another_shape(folder: Path) -> None:
    config = folder / "unet" / "config.json"
    document = json.loads(config.read_text())
    document["block_out_channels"] = [64, 64, 96]
    config.write_text(json.dumps(document))
    update_sizes(folder)


def without_a_class(folder: Path) -> None:
    index = folder / "model_index.json"
    document = json.loads(index.read_text())
    del document["_class_name"]
    index.write_text(json.dumps(document))
    update_sizes(folder)


def update_sizes(folder: Path) -> None:
    marker = json.loads((folder / MARKER_NAME).read_text())
    for entry in marker["files"]:
        entry["size"] = (folder / entry["path"]).stat().st_size
    (folder / MARKER_NAME).write_text(json.dumps(marker))


def test_a_broken_installation_ends_the_process(demo_model: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text('raise ValueError("libcuda is not where it should be")')

    with Server.started(demo_model, tmp_path / "log", python_path=tmp_path) as server:
        assert server.process.wait(timeout=60) == 1

    last_line = server.log.read_text().splitlines()[-1]
    assert last_line == "predictor: loading failed: libcuda is not where it should be"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            without_marker,
            ["/model has model_index.json", "python -m downloader adopt --name model --target /"],
        ),
        (with_a_truncated_file, ["unet/diffusion_pytorch_model", "bytes", "python -m downloader"]),
        (with_wrong_defaults, ["generation_defaults.json", "num_inference_steps", "'20'"]),
        (with_weights_of_another_shape, ["does not load"]),
        (without_a_class, ["does not load", "_class_name"]),
    ],
)
def test_a_model_that_cannot_be_served_ends_the_process_with_the_reason(
    demo_model: Path, tmp_path: Path, damage, expected: list[str]
) -> None:
    model = broken(demo_model, tmp_path / "model")
    damage(model)

    with Server.started(model, tmp_path / "log") as server:
        assert server.process.wait(timeout=60) == 1

    last_line = server.log.read_text().splitlines()[-1]
    assert last_line.startswith("predictor: ")
    assert [word for word in expected if word not in last_line] == []
