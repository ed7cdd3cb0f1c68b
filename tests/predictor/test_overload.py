"""Overload as callers see it: refusals before the body, whole calls, timeouts and draining."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from predictor.edge.inference_routes import MODEL_INFER
from predictor.edge.model import DiffusionModel
from predictor.engine import Admission
from predictor.engine.service_times import ServiceTimes
from predictor.errors import DeadlineExceededError
from predictor.loading.loader import Loaded
from predictor.protocol import Call, decode_call, parse
from predictor.requests import GenerationDefaults, Limits, ModelProfile
from predictor.residency.resident import Resident
from predictor.settings import Settings
from tests.predictor.metric_samples import metric, samples
from tests.predictor.test_service_times import Pictures
from tests.serving import PREDICT, SHORT, Server

# The calls that the settings of the server turn off.
OFF = ("/sdapi/v1/txt2img", "/sdapi/v1/img2img", MODEL_INFER)
PROFILE = ModelProfile("r1", GenerationDefaults(64, 64, 20, 2.0, "unipc"), 8, ("unipc",))


def long(pictures: int) -> dict[str, Any]:
    """Pictures that take minutes."""
    size = {"width": 256, "height": 256, "num_images_per_prompt": pictures}
    return {"prompt": "a red star", "parameters": {"num_inference_steps": 150, **size}}


@contextlib.contextmanager
def in_progress(server: Server, pictures: int) -> Iterator[None]:
    """A call that does not end; its caller leaves at the end of the context."""
    headers = {"accept": "text/event-stream"}
    with httpx.stream(
        "POST", server.url + PREDICT, json=long(pictures), headers=headers, timeout=120
    ) as stream:
        # A generator that is dropped closes the stream.
        lines = stream.iter_lines()
        assert next(lines) == "event: progress"
        yield


@pytest.fixture(scope="module")
def busy(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with places for ten pictures, nine of them taken."""
    log = tmp_path_factory.mktemp("busy") / "log"
    settings = {"max_queue_length": 2, "max_lanes": 16, "max_queue_seconds": 3600}
    with Server.started(demo_model, log, drain_seconds=600, **settings) as server:
        server.wait_until_ready()
        with in_progress(server, 9):
            yield server


def post(server: Server, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(server.url + PREDICT, json=body, timeout=60)


def refusals(server: Server, reason: str) -> float:
    found = samples(httpx.get(f"{server.url}/metrics").text, "diffusion_refused_total")
    return next(one.value for one in found if one.labels == {"reason": reason})


def unfinished(server: Server) -> float:
    return sum(
        metric(server.url, "diffusion_pictures", state=state) for state in ("waiting", "in_flight")
    )


def wait_until_callers_have_left(server: Server) -> None:
    """Wait until only the pictures of the fixture are unfinished."""
    deadline = time.monotonic() + 60
    while unfinished(server) > 9:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_call_of_more_pictures_than_places_is_refused_whole(busy: Server) -> None:
    before = refusals(busy, "queue")

    answer = post(busy, long(2))

    assert answer.status_code == 429
    assert "the queue has room for 1 pictures, and the request has 2" in answer.json()["error"]
    # The pictures take minutes; a constant would be less.
    assert 10 <= int(answer.headers["retry-after"]) <= 300
    assert refusals(busy, "queue") == before + 1
    # Nothing of the refused call remains; those of the fixture may still be on their way.
    assert unfinished(busy) <= 9


def test_a_call_that_cannot_meet_its_timeout_is_refused(busy: Server) -> None:
    before = refusals(busy, "seconds")

    answer = post(busy, SHORT | {"timeout": 0.5})

    assert answer.status_code == 429
    assert "s, and timeout is 0.5 s" in answer.json()["error"]
    assert int(answer.headers["retry-after"]) >= 1
    assert refusals(busy, "seconds") == before + 1
    assert metric(busy.url, "diffusion_queue_seconds") > 10


@pytest.mark.parametrize("body", [{"timeout": 0}, {"timeout": "1 s"}, {"timeout": 1e6}])
def test_an_invalid_timeout_is_an_error(busy: Server, body: dict[str, Any]) -> None:
    answer = post(busy, SHORT | body)

    assert answer.status_code == 400
    assert answer.json()["error"].startswith("timeout: ")


@pytest.mark.parametrize("path", [PREDICT, "/openai/v1/images/generations"])
def test_a_full_queue_is_refused_before_the_body_arrives(busy: Server, path: str) -> None:
    body = json.dumps(SHORT).encode()
    connection = http.client.HTTPConnection("127.0.0.1", httpx.URL(busy.url).port, timeout=60)
    with in_progress(busy, 1), contextlib.closing(connection):
        connection.putrequest("POST", path)
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(len(body)))
        connection.endheaders()
        refused = connection.getresponse()
        reason = json.loads(refused.read())["error"]
        # The connection stays usable once the rest of the body has arrived.
        connection.send(body)
        connection.request("GET", "/")
        alive = connection.getresponse()

    assert refused.status == 429
    if path != PREDICT:
        assert (reason["type"], reason["code"]) == ("rate_limit_error", "server_overloaded")
        reason = reason["message"]
    assert "2 pictures are waiting already" in reason
    assert alive.status == 200


def test_a_protocol_that_is_off_is_404_while_the_queue_is_full(busy: Server) -> None:
    wait_until_callers_have_left(busy)
    with in_progress(busy, 1):
        answers = [httpx.post(busy.url + path, json=SHORT, timeout=60) for path in OFF]
        served = post(busy, SHORT)

    assert served.status_code == 429
    for answer in answers:
        assert answer.status_code == 404
        assert "does not exist" in answer.text
    # They are not calls of the model.
    assert metric(busy.url, "diffusion_requests_total", code="404") == 0


def test_a_full_queue_is_503_while_the_server_drains(busy: Server) -> None:
    """The last test of the server."""
    wait_until_callers_have_left(busy)
    with in_progress(busy, 1):
        busy.terminate()
        busy.wait_for_log("draining")
        off = [httpx.post(busy.url + path, json=SHORT, timeout=60) for path in OFF]
        answers = [post(busy, SHORT)]
    # Decided after the body.
    answers.append(post(busy, long(2)))

    assert [one.status_code for one in off] == [404, 404, 404]
    for answer in answers:
        assert answer.status_code == 503
        assert "the server shuts down, and its queue is full" in answer.json()["error"]
        assert 10 <= int(answer.headers["retry-after"]) <= 300
        assert answer.headers["connection"] == "close"


class StuckEngine:
    """Accepts every call and never finishes a picture."""

    def __init__(self) -> None:
        self.admission = Admission(1, 1, ServiceTimes(Pictures(has_times=False)))

    async def submit(self, *_: object) -> None:
        await asyncio.Event().wait()


class OneResident:
    """A residency whose model is loaded."""

    def __init__(self, engine: StuckEngine | None = None) -> None:
        self._engine = engine or StuckEngine()

    def __getitem__(self, name: str) -> Resident:
        return Resident(name, Path(), loaded=Loaded(self._engine, PROFILE, 0))  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Loaded]:
        yield Loaded(self._engine, PROFILE, 0)  # type: ignore[arg-type]

    def keep(self, name: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


@pytest.mark.parametrize(
    ("timeout", "request_timeout_seconds", "seconds"),
    [(0.05, 0, "0.05"), (0.05, 60, "0.05"), (60, 0.05, "0.05"), (None, 0.05, "0.05")],
)
def test_the_shorter_timeout_ends_a_call(
    timeout: float | None, request_timeout_seconds: float, seconds: str
) -> None:
    settings = Settings(request_timeout_seconds=request_timeout_seconds)
    model = DiffusionModel("m", settings, OneResident())  # type: ignore[arg-type]

    with pytest.raises(DeadlineExceededError, match=f"not done within {seconds} s"):
        asyncio.run(asyncio.wait_for(model.predict(SHORT | {"timeout": timeout}), 10))


class HungReaders:
    """Readers that never answer."""

    async def read(self, *_: object) -> None:
        await asyncio.Event().wait()


class QuickEngine(StuckEngine):
    """Generates a picture within the timeout."""

    async def submit(self, *_: object) -> None:
        await asyncio.sleep(0.1)


class SlowReaders:
    """Readers that take longer than the timeout in the body."""

    async def read(self, payload: Any, *_: object) -> Call:
        await asyncio.sleep(0.3)
        limits = Limits(Settings(), PROFILE)
        return decode_call(parse(SHORT | {"timeout": 0.2}, None, limits), limits)


def test_reading_a_request_counts_towards_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predictor.edge.model.READERS", HungReaders())
    settings = Settings(request_timeout_seconds=0.05)
    model = DiffusionModel("m", settings, OneResident())  # type: ignore[arg-type]

    with pytest.raises(DeadlineExceededError, match=r"not done within 0\.05 s: .* reading the"):
        asyncio.run(asyncio.wait_for(model.predict(bytes(20_000)), 10))


def test_a_timeout_begins_with_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predictor.edge.model.READERS", SlowReaders())
    resident = OneResident(QuickEngine())
    model = DiffusionModel("m", Settings(), resident)  # type: ignore[arg-type]

    with pytest.raises(DeadlineExceededError, match=r"not done within 0\.2 s"):
        asyncio.run(asyncio.wait_for(model.predict(bytes(20_000)), 10))


def test_the_shortest_timeout_of_the_instances_counts() -> None:
    model = DiffusionModel("m", Settings(), OneResident())  # type: ignore[arg-type]
    body = {"instances": [{"prompt": "a"}, {"prompt": "b", "timeout": 0.05}], "parameters": {}}

    with pytest.raises(DeadlineExceededError, match=r"not done within 0\.05 s"):
        asyncio.run(asyncio.wait_for(model.predict(body), 10))


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({}, 60),
        ({"request_timeout_seconds": 20}, 20),
        ({"request_timeout_seconds": 20, "max_queue_seconds": 5}, 5),
    ],
)
def test_the_bound_of_the_wait_follows_the_timeout(given: dict[str, float], seconds: float) -> None:
    assert Settings(**given).queue_seconds == seconds
