"""Calls that arrive while the only model of a server loads: they wait, report, or are refused."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from tests.predictor.metric_samples import samples, wait_for_metric
from tests.predictor.test_progress import EVENTS, events
from tests.serving import MODEL_NAME, PREDICT, Server, picture_of

FAULTY = "tests.predictor.faulty_server"
ONE_STEP = {"prompt": "a red star", "parameters": {"num_inference_steps": 1, "seed": 3}}


@contextlib.contextmanager
def loading(model: Path, folder: Path, **settings: Any) -> Iterator[Server]:
    """A server whose load pauses until ``folder / "gate"`` exists."""
    variables = {"FAULTY_LOAD": "1", "FAULTY_GATE": str(folder / "gate")}
    # A busy machine may take minutes.
    settings = {"max_load_wait_seconds": 600, **settings}
    with Server.started(
        model, folder / "log", module=FAULTY, variables=variables, **settings
    ) as server:
        server.wait_for("/", seconds=300)
        yield server


def post(server: Server, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(server.url + PREDICT, json=body, headers=headers, timeout=600)


def received(response: httpx.Response) -> list[tuple[str, Any]]:
    return list(events(iter(response.text.splitlines())))


def ready(server: Server) -> list[int]:
    paths = ("/v2/health/ready", f"/v2/models/{MODEL_NAME}/ready", f"/v1/models/{MODEL_NAME}")
    return [httpx.get(server.url + path).status_code for path in paths]


def test_a_stream_reports_the_phases_of_the_load_and_then_the_result(
    demo_model: Path, tmp_path: Path
) -> None:
    with (
        loading(demo_model, tmp_path) as server,
        httpx.stream(
            "POST", server.url + PREDICT, json=ONE_STEP, headers=EVENTS, timeout=600
        ) as stream,
    ):
        early = post(server, ONE_STEP)
        lines = events(stream.iter_lines())
        found = [next(lines)]
        while found[-1][1]["reason"] != "warming":
            found.append(next(lines))
        server.wait_for_log("pausing at load", seconds=300)
        before = ready(server)
        short = post(server, ONE_STEP | {"timeout": 0.3}, **EVENTS)
        wrong = post(server, {"prompt": "a red star", "colour": "red"}, **EVENTS)
        image = base64.b64encode(bytes(20_000)).decode()
        wrong_type = post(server, {"prompt": 1, "image": image}, **EVENTS)
        (tmp_path / "gate").touch()
        rest = list(lines)
        server.wait_for("/v2/health/ready", seconds=300)
        ended = samples(httpx.get(f"{server.url}/metrics").text, "diffusion_requests_total")
        log = server.log.read_text()

    assert stream.status_code == 200
    assert (early.status_code, early.headers["retry-after"]) == (503, "5")
    assert {name for name, _ in found} == {"waiting"}
    reasons = list(dict.fromkeys(data["reason"] for _, data in found))
    phases = ["importing", "queued", "loading", "warming"]
    assert reasons == [phase for phase in phases if phase in reasons]
    assert [data["seconds"] for _, data in found] == sorted(data["seconds"] for _, data in found)
    assert before == [503, 503, 503], "a request that waits must not make the pod ready"
    assert received(short)[-1] == (
        "error",
        {"error": "not done within 0.3 s: the model is still loading", "status": 504},
    )
    assert wrong.status_code == 400
    assert wrong.json()["error"].startswith("colour: unknown parameter")
    assert (wrong_type.status_code, wrong_type.json()["error"]) == (
        400,
        "prompt: must be a string, not 1",
    )
    name, answer = rest[-1]
    assert name == "result"
    file = base64.b64decode(answer["predictions"][0]["image"]["b64"])
    assert Image.open(io.BytesIO(file)).size == (64, 64)
    codes = {sample.labels["code"]: sample.value for sample in ended}
    assert codes == {"200": 1, "400": 2, "500": 0, "503": 1, "504": 1}
    assert "Traceback" not in log


def test_plain_requests_wait_for_the_model_if_the_setting_says_so(
    demo_model: Path, tmp_path: Path
) -> None:
    with (
        loading(
            demo_model, tmp_path, wait_for_load=True, max_queue_length=2, max_images_per_request=2
        ) as server,
        ThreadPoolExecutor(2) as callers,
    ):
        waiting = [callers.submit(post, server, ONE_STEP) for _ in range(2)]
        server.wait_for_log("pausing at load", seconds=300)
        wait_for_metric(server.url, "diffusion_load_waiters", 2)
        refused = post(server, ONE_STEP)
        unread = httpx.post(f"{server.url}/openai/v1/images/generations", content=b"{")
        before = ready(server), [one.done() for one in waiting]
        (tmp_path / "gate").touch()
        answers = [one.result(timeout=600) for one in waiting]

    assert before == ([503, 503, 503], [False, False])
    assert refused.status_code == 429
    assert "2 requests already wait for model 'stable-diffusion' to load" in refused.json()["error"]
    assert unread.json()["error"]["code"] == "server_overloaded", "it is refused before it is read"
    assert [picture_of(answer).size for answer in answers] == [(64, 64), (64, 64)]


def test_the_timeout_of_any_protocol_ends_the_wait(demo_model: Path, tmp_path: Path) -> None:
    openai, link = "/openai/v1/images/generations", f"/v1/models/{MODEL_NAME}/picture"
    tensors = {
        "inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["a red star"]}],
        "parameters": {"timeout": 300_000},
    }
    query = {"prompt": "a red star", "timeout": "0.3"}
    image = base64.b64encode(bytes(20_000)).decode()
    with (
        loading(demo_model, tmp_path, wait_for_load=True) as server,
        httpx.Client(base_url=server.url, timeout=120) as client,
    ):
        late = [
            client.post(openai, json={"prompt": "a red star", "timeout": 0.3}),
            client.post(openai, json={"prompt": "a red star", "timeout": 0.3, "image": image}),
            client.post(f"/v2/models/{MODEL_NAME}/infer", json=tensors),
            client.get(link, params=query),
        ]
        wrong = client.post(openai, json={"prompt": "a red star", "colour": "red"})
        is_ready = ready(server)

    assert [answer.status_code for answer in late] == [504] * 4
    assert [str(answer.json()).count("not done within 0.3 s") for answer in late] == [1] * 4
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "colour")
    assert is_ready == [503, 503, 503], "the model was still loading"


def test_sigterm_answers_the_requests_that_wait(demo_model: Path, tmp_path: Path) -> None:
    with (
        loading(demo_model, tmp_path, wait_for_load=True) as server,
        ThreadPoolExecutor(1) as callers,
        httpx.stream(
            "POST", server.url + PREDICT, json=ONE_STEP, headers=EVENTS, timeout=600
        ) as stream,
    ):
        lines = events(stream.iter_lines())
        name, _ = next(lines)
        plain: Future[httpx.Response] = callers.submit(post, server, ONE_STEP)
        server.wait_for_log("pausing at load", seconds=300)
        wait_for_metric(server.url, "diffusion_load_waiters", 2)
        server.terminate()
        *_, last = lines
        answer = plain.result(timeout=60)
        status = server.process.wait(timeout=60)

    reason = "the server shuts down before the model is loaded; send the request again"
    assert name == "waiting"
    retry_after = int(answer.headers["retry-after"])
    assert last == ("error", {"error": reason, "status": 503, "retry_after": retry_after})
    assert (answer.status_code, answer.json()) == (503, {"error": reason})
    assert status == 0
