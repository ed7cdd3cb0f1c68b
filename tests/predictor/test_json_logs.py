"""The log of a pod as JSON: every line is one object, and none contains a prompt."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from predictor import logs
from predictor.pipelines.schedulers import OWN
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationDefaults, GenerationRequest, ModelProfile
from tests.predictor.random_pipelines import build_sd3
from tests.serving import PREDICT, Server

MAGIC = "xyzzy"
PROMPT = f"a {MAGIC} star"
# Runs before the server: requests for WebP fail in the encoder, and end a thread too.
BROKEN_ENCODER = """
import os, sys, threading
sys.path.insert(0, os.getcwd())
from predictor import images

encode_image = images.encode_image

def fail():
    raise RuntimeError("a thread\\nended")

def broken(image, output_format, *rest, **options):
    if output_format != "webp":
        return encode_image(image, output_format, *rest, **options)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    raise RuntimeError("the encoder\\nis broken")

images.encode_image = broken
"""
LONG = {"num_inference_steps": 150, "width": 128, "height": 128, "num_images_per_prompt": 12}
# Requests that fail in the order of the server's checks, all with the word in a value or a name.
REFUSED: list[Any] = [
    {"prompt": PROMPT, "seed": PROMPT},
    {"prompt": PROMPT, MAGIC: 1},
    {"prompt": PROMPT, "scheduler": MAGIC},
    {"prompt": PROMPT, "width": 1},
    {"prompt": PROMPT * 1000},
    {"prompt": [PROMPT]},
    {"prompt": PROMPT, "adapters": [{"name": MAGIC}]},
    {"prompt": PROMPT, "image": MAGIC},
    {"instances": [{"prompt": PROMPT, "negative_prompt": {"x": MAGIC}}]},
    {"instances": [PROMPT]},
    [PROMPT],
    PROMPT,
]


def run(server: Server) -> None:
    """Send requests of every outcome, and stop the server."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for accept in ("image/png", "application/json", "text/event-stream"):
            for body in ({"prompt": PROMPT, "num_inference_steps": 1}, *REFUSED):
                client.post(PREDICT, json=body, headers={"accept": accept})
        client.post(PREDICT, content=f'{{"prompt": "{PROMPT}"')
        client.post(f"{PREDICT}?prompt={MAGIC}", json={"prompt": ""})
        client.post("/v1/models/another:predict", json={"prompt": PROMPT})
        failed = client.post(
            PREDICT,
            json={"prompt": PROMPT, "output_format": "webp", "num_inference_steps": 1},
            headers={"x-request-id": "broken-1"},
        )
        assert failed.status_code == 500
        assert failed.headers["x-request-id"] == "broken-1"
    # Uvicorn closes the connection after an unexpected error.
    headers = {"x-request-id": "left-1", "accept": "text/event-stream"}
    body = {"prompt": PROMPT, "parameters": LONG}
    with httpx.stream(
        "POST", server.url + PREDICT, json=body, headers=headers, timeout=60
    ) as response:
        # Until the picture has taken a step.
        next(line for line in response.iter_lines() if re.search('"step":[1-9]', line))
    server.wait_for_log("the caller left at step")
    server.terminate()
    assert server.process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def log(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The log of a server with JSON lines, from its start to its end."""
    folder = tmp_path_factory.mktemp("json")
    (folder / "sitecustomize.py").write_text(BROKEN_ENCODER)
    with Server.started(
        demo_model, folder / "log", python_path=folder, log_format="json"
    ) as server:
        server.wait_until_ready()
        run(server)
        return server.log.read_text()


@pytest.fixture
def lines(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines()]


def test_every_line_is_an_object(lines: list[dict[str, Any]]) -> None:
    assert len(lines) > 60
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    loggers = {line["logger"].partition(".")[0] for line in lines}
    assert loggers >= {"predictor", "kserve", "uvicorn"}


def test_an_access_line_has_fields(lines: list[dict[str, Any]]) -> None:
    access = [line for line in lines if line["logger"] == "predictor.access"]
    (left,) = [line for line in access if line["request_id"] == "left-1"]

    assert {line["status"] for line in access} == {200, 400, 404, 499, 500}
    assert left["message"].endswith("499 Client Closed Request")
    assert {key: left[key] for key in ("method", "path", "status")} == {
        "method": "POST",
        "path": PREDICT,
        "status": 499,
    }
    assert left["seconds"] > 0
    assert left["level"] == "info"
    assert "key" not in left


def test_a_trace_is_one_line_with_the_identifier(lines: list[dict[str, Any]]) -> None:
    traces = [line for line in lines if "trace" in line]

    assert [line["message"] for line in traces if "ended" in line["trace"]] == [
        "uncaught exception"
    ]
    (failed,) = [line for line in traces if line["logger"].startswith("uvicorn")]
    assert "the encoder\nis broken" in failed["trace"]
    assert failed["request_id"] == "broken-1"


def test_the_engine_and_the_edge_name_the_caller_that_left(lines: list[dict[str, Any]]) -> None:
    left = [line["message"] for line in lines if line.get("request_id") == "left-1"]

    assert any(message.startswith("the caller left at step") for message in left)
    assert any(message.startswith("the caller disconnected") for message in left)


def test_no_line_contains_a_prompt(log: str) -> None:
    assert MAGIC not in log


def test_a_failed_start_ends_with_the_reason_as_json(demo_model: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text('raise ValueError("libcuda is not where it should be")')

    with Server.started(
        demo_model, tmp_path / "log", python_path=tmp_path, log_format="json"
    ) as server:
        assert server.process.wait(timeout=60) == 1

    last = json.loads(server.log.read_text().splitlines()[-1])
    assert last["message"] == "loading failed: libcuda is not where it should be"
    assert last["level"] == "critical"


@pytest.mark.parametrize("log_prompts", [False, True])
def test_warnings_of_diffusers_show_no_part_of_a_prompt(log_prompts: bool) -> None:
    built = build_sd3()
    built.set_progress_bar_config(disable=True)
    profile = ModelProfile("r1", GenerationDefaults(64, 64, 1, 4.0, OWN), 8, (OWN,))
    handler = logs._handler("text", log_prompts=log_prompts)
    written = io.StringIO()
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(written)
    logs.adopt_library_loggers()
    logging.getLogger().addHandler(handler)
    try:
        wanted = GenerationRequest(f"{'star ' * 100}{MAGIC}", "", 3, 64, 64, 1, 4.0, OWN)
        DiffusersPipeline(built, profile).generate([wanted], lambda step, steps: None)
    finally:
        logging.getLogger().removeHandler(handler)

    assert ("truncated" in written.getvalue()) is log_prompts
