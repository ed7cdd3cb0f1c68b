"""Shutdown as clients see it: signals, keep-alive connections and requests that are cut off."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from predictor.edge.draining import Drain, DrainMiddleware
from predictor.edge.middleware import MetricsMiddleware
from predictor.metrics import REQUESTS
from tests.predictor.metric_samples import samples
from tests.predictor.rpc import typed
from tests.predictor.test_progress import events
from tests.serving import PREDICT, SHORT, Server
from tests.waiting import wait_until

LONG = {
    "prompt": "a red star",
    "parameters": {
        "num_inference_steps": 150,
        "width": 128,
        "height": 128,
        "num_images_per_prompt": 16,
    },
}
EVENTS = {"accept": "text/event-stream"}
CLIENTS = 20


class KeepAliveConnection:
    """One connection that is reused until the server closes it."""

    def __init__(self, server: Server, is_in_use: threading.Barrier) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", httpx.URL(server.url).port)
        self._is_in_use = is_in_use
        self.answers: list[int] = []

    def request_until_closed(self, body: dict[str, Any] | None) -> list[int]:
        """Return the statuses; a reset or a truncated response raises."""
        is_closing = False
        while not is_closing:
            method, path = ("POST", PREDICT) if body else ("GET", "/v2/health/live")
            headers = {"content-type": "application/json"}
            self._connection.request(method, path, body and json.dumps(body), headers)
            answer = self._connection.getresponse()
            answer.read()
            self.answers.append(answer.status)
            is_closing = answer.headers.get("connection") == "close"
            if len(self.answers) == 1:
                self._is_in_use.wait(60)
        return self.answers


# After SIGINT the server exits once its clients have left.
@pytest.mark.parametrize(("sent", "drain_seconds"), [(signal.SIGTERM, 5), (signal.SIGINT, 60)])
def test_no_keep_alive_connection_breaks_during_shutdown(
    demo_model: Path, tmp_path: Path, sent: signal.Signals, drain_seconds: int
) -> None:
    in_use = threading.Barrier(CLIENTS + 1)
    with Server.started(demo_model, tmp_path / "log", drain_seconds=drain_seconds) as server:
        server.wait_until_ready()
        with ThreadPoolExecutor(CLIENTS) as clients:
            # Some request pictures, so that a request is in flight when the signal arrives.
            asking = [
                clients.submit(
                    KeepAliveConnection(server, in_use).request_until_closed,
                    None if index % 4 else SHORT,
                )
                for index in range(CLIENTS)
            ]
            in_use.wait(60)
            server.process.send_signal(sent)
            server.wait_for_log("draining")
            server.process.send_signal(sent)
            answers = [client.result(timeout=60) for client in asking]
        status = server.process.wait(timeout=60)
        log = server.log.read_text()

    assert {status for statuses in answers for status in statuses} == {200}
    assert status == 0
    assert "Traceback" not in log


def test_an_idle_connection_is_answered_and_closed_after_the_signal(
    demo_model: Path, tmp_path: Path
) -> None:
    with Server.started(demo_model, tmp_path / "log", drain_seconds=60) as server:
        server.wait_until_ready()
        with httpx.Client(base_url=server.url, timeout=60) as idle:
            before = idle.post(PREDICT, json=SHORT)
            server.terminate()
            server.wait_for_log("draining")
            after = idle.post(PREDICT, json=SHORT)

    assert "connection" not in before.headers
    assert (after.status_code, after.headers["connection"]) == (200, "close")


def test_rpcs_in_flight_finish_after_the_signal_and_new_ones_are_refused(
    demo_model: Path, tmp_path: Path
) -> None:
    request = typed(prompt="a red star", num_inference_steps=80)

    with (
        Server.started(demo_model, tmp_path / "log", enable_grpc=True) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)

        def is_refused() -> bool:
            try:
                stub.ServerLive(pb.ServerLiveRequest(), timeout=5)
            except grpc.RpcError as error:
                return bool(error.code() is grpc.StatusCode.UNAVAILABLE)
            return False

        server.wait_until_ready()
        call = stub.ModelInfer.future(request)
        wait_for_pictures(server, 1)
        server.terminate()
        wait_until(is_refused)
        image, seed = call.result(timeout=120).outputs
        status = server.process.wait(timeout=60)
        log = server.log.read_text()

    assert len(image.contents.bytes_contents) == len(seed.contents.int64_contents) == 1
    assert status == 0
    assert "Traceback" not in log


def test_ctrl_c_stops_a_server_without_clients_at_once(demo_model: Path, tmp_path: Path) -> None:
    with Server.started(demo_model, tmp_path / "log", drain_seconds=600) as server:
        server.wait_until_ready()
        server.process.send_signal(signal.SIGINT)

        assert server.process.wait(timeout=60) == 0


def test_requests_that_exceed_shutdown_seconds_get_503(demo_model: Path, tmp_path: Path) -> None:
    def read_stream() -> list[tuple[str, Any]]:
        with httpx.stream(
            "POST", server.url + PREDICT, json=LONG, headers=EVENTS, timeout=120
        ) as response:
            return list(events(response.iter_lines()))

    settings = {"shutdown_seconds": 1, "max_queue_seconds": 1000}
    with Server.started(demo_model, tmp_path / "log", **settings) as server:
        server.wait_until_ready()
        with ThreadPoolExecutor(2) as callers:
            picture = callers.submit(httpx.post, server.url + PREDICT, json=LONG, timeout=120)
            stream = callers.submit(read_stream)
            wait_for_pictures(server, 32)
            server.terminate()
            server.terminate()
            cut, streamed = picture.result(), stream.result()
        status = server.process.wait(timeout=60)
        log = server.log.read_text()

    sentence = "the server shuts down before the request is done; send it again"
    assert cut.status_code == 503
    assert cut.json() == {"error": sentence}
    retry_after = int(cut.headers["retry-after"])
    assert retry_after > 0
    assert cut.headers["connection"] == "close"
    assert streamed[-1] == (
        "error",
        {"error": sentence, "status": 503, "retry_after": retry_after},
    )
    assert status == 0
    assert log.count("shutdown_seconds=1 ran out: 2 unfinished requests") == 1
    assert "Traceback" not in log
    assert "the caller left" not in log


async def cut_after(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cut off an application that hangs after these messages; return all messages sent."""
    drain, hangs, sent = Drain(), asyncio.Event(), []

    async def hanging(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        hangs.set()
        await asyncio.Event().wait()

    async def send(message: Message) -> None:
        sent.append(dict(message))

    app = MetricsMiddleware(DrainMiddleware(hanging, drain), lambda name: True)
    scope = {"type": "http", "path": "/v1/models/cut:predict", "headers": []}
    handling = asyncio.create_task(app(scope, send, send))  # type: ignore[arg-type]
    await hangs.wait()
    assert drain.cut() == 1
    await handling
    return sent


EVENT_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}


@pytest.mark.parametrize("messages", [[], [EVENT_START]], ids=["nothing sent", "stream"])
def test_a_request_that_is_cut_off_counts_as_503(messages: list[dict[str, Any]]) -> None:
    before = REQUESTS.labels("cut", 503)._value.get()

    sent = asyncio.run(cut_after(messages))

    assert REQUESTS.labels("cut", 503)._value.get() == before + 1
    assert b"shuts down" in sent[-1]["body"]
    assert not sent[-1].get("more_body", False)


def test_a_complete_response_is_not_followed_by_another() -> None:
    start = {"type": "http.response.start", "status": 204, "headers": []}
    messages = [start, {"type": "http.response.body", "body": b""}]

    assert asyncio.run(cut_after(messages)) == messages


def test_an_unexpected_error_closes_its_connection() -> None:
    drain, sent = Drain(), []
    drain.is_draining = True

    async def fail(request: Request) -> Response:
        raise ValueError("not expected")

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    app = DrainMiddleware(Starlette(routes=[Route("/", fail)]), drain)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    with pytest.raises(ValueError, match="not expected"):
        asyncio.run(app(scope, receive, send))

    assert sent[0]["status"] == 500
    assert (b"connection", b"close") in sent[0]["headers"]


def wait_for_pictures(server: Server, count: int) -> None:
    """Poll until ``count`` pictures wait or are in flight."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = samples(httpx.get(f"{server.url}/metrics").text, "diffusion_pictures")
        if sum(sample.value for sample in found) == count:
            return
        time.sleep(0.05)
    raise AssertionError(f"there were never {count} unfinished pictures")
