"""How the responses of a predictor are read: statuses, and events in any pieces."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx
import pytest

from jobs.call_errors import CallError, CallFailedError, CallRefusedError, CallRejectedError
from jobs.job import Picture
from jobs.predictor_client import PredictorClient
from jobs.settings import Settings
from tests.jobs.scripted_predictor import ScriptedPredictor

WAITING = b'event: waiting\ndata: {"reason":"loading"}\n\n'
PROGRESS = WAITING + b'event: progress\ndata: {"step":1,"steps":2}\n\n'
PREDICTION = b'{"image":{"format":"png","b64":"cGljdHVyZQ=="},"seed":1}'
RESULT = b'event: result\ndata: {"predictions":[' + PREDICTION + b"]}\n\n"
Respond = Callable[[httpx.Request], httpx.Response]


class Stream(httpx.AsyncByteStream):
    """A body in given pieces, and how it ends."""

    def __init__(self, pieces: Sequence[bytes], end: httpx.TransportError | None = None) -> None:
        self._pieces = pieces
        self._end = end

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        if self._end:
            raise self._end


def call(respond: Respond, **settings: object) -> tuple[list[Picture], list[tuple[int, int]]]:
    """Call a predictor that responds as given."""
    steps: list[tuple[int, int]] = []

    async def run() -> list[Picture]:
        client = PredictorClient(Settings(**settings))  # type: ignore[arg-type]
        client._client = httpx.AsyncClient(transport=httpx.MockTransport(respond))
        try:
            return await client.predict(
                "sd", b"{}", "job-1", lambda *step: steps.append(step), lambda _: None
            )
        finally:
            await client.close()

    return asyncio.run(run()), steps


@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
def test_events_may_arrive_in_any_pieces(size: int) -> None:
    whole = PROGRESS + RESULT
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    pictures, steps = call(lambda _: httpx.Response(200, stream=Stream(pieces)))

    assert pictures == [Picture("image/png", b"picture", {"seed": 1})]
    assert steps == [(1, 2)]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, CallRejectedError),
        (401, CallRefusedError),
        (403, CallRefusedError),
        (404, CallRejectedError),
        (413, CallRejectedError),
        (429, CallRefusedError),
        (500, CallFailedError),
        (502, CallRefusedError),
        (503, CallRefusedError),
        (504, CallFailedError),
    ],
)
def test_the_status_says_whether_to_try_again(status: int, kind: type[CallError]) -> None:
    event = f'event: error\ndata: {{"error":"a sentence","status":{status}}}\n\n'.encode()
    with pytest.raises(kind) as ours:
        call(lambda _: httpx.Response(status, json={"error": "a sentence"}))
    with pytest.raises(kind) as later:
        call(lambda _: httpx.Response(200, stream=Stream([WAITING, event])))

    assert str(ours.value) == str(later.value) == "a sentence"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, CallRejectedError),
        (403, CallRefusedError),
        # Knative's gateway has no route yet.
        (404, CallRefusedError),
        (429, CallRefusedError),
        (500, CallFailedError),
        (502, CallRefusedError),
        (503, CallRefusedError),
        # The predictor did not start in the time of the gateway.
        (504, CallRefusedError),
    ],
)
def test_a_gateway_that_cannot_reach_the_predictor_costs_no_try(
    status: int, kind: type[CallError]
) -> None:
    with pytest.raises(kind, match=f"the predictor responded with status {status}"):
        call(lambda _: httpx.Response(status, text="<html>a page</html>"))


ENVOY = "upstream connect error or disconnect/reset before headers. reset reason: "
READ = "10.0.0.1:54244->127.0.0.1:8080: "


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        # Of Knative's activator and queue-proxy, which write the error of Go's HTTP client.
        (502, "EOF\n", CallFailedError),
        (502, f"read tcp {READ}read: connection reset by peer\n", CallFailedError),
        (502, f"write tcp {READ}write: broken pipe\n", CallFailedError),
        (502, f"write tcp {READ}use of closed network connection\n", CallFailedError),
        (502, "net/http: HTTP/1.x transport connection broken: malformed\n", CallFailedError),
        (502, "dial tcp 127.0.0.1:8080: connect: connection refused\n", CallRefusedError),
        (502, "dial tcp 10.0.0.1:8012: connect: connection reset by peer\n", CallRefusedError),
        (502, "dial tcp 10.0.0.1:8012: i/o timeout\n", CallRefusedError),
        (503, "pending request queue full\n", CallRefusedError),
        (503, "context deadline exceeded\n", CallRefusedError),
        (504, "activator request timeout", CallRefusedError),
        # Of Envoy.
        (503, f"{ENVOY}connection termination", CallFailedError),
        (502, f"{ENVOY}protocol error", CallFailedError),
        (503, f"{ENVOY}remote connection failure", CallRefusedError),
        (503, f"{ENVOY}overflow", CallRefusedError),
        (503, "no healthy upstream", CallRefusedError),
        (504, "upstream request timeout", CallRefusedError),
        # The sentence of a predictor is not searched.
        (503, '{"error": "model: reading the weights failed: EOF"}', CallRefusedError),
    ],
)
def test_a_gateway_whose_connection_to_the_predictor_ends_costs_a_try(
    status: int, text: str, kind: type[CallError]
) -> None:
    """Envoy 1.40 and the proxy of Go 1.27 have sent these texts; Knative's are in its source."""
    with pytest.raises(CallError) as error:
        call(lambda _: httpx.Response(status, text=text))

    assert type(error.value) is kind


@pytest.mark.parametrize(
    ("silent", "kind"), [(httpx.ReadTimeout, CallRefusedError), (httpx.ReadError, CallFailedError)]
)
def test_only_silence_before_the_response_costs_no_try(
    silent: type[httpx.TransportError], kind: type[CallError]
) -> None:
    def end_before_the_response(request: httpx.Request) -> httpx.Response:
        raise silent("any", request=request)

    with pytest.raises(kind):
        call(end_before_the_response)
    with pytest.raises(CallFailedError):
        call(lambda _: httpx.Response(200, stream=Stream([PROGRESS], silent("any"))))


@pytest.mark.parametrize("status", ['"503"', "[429]", "{}", "true", "null"])
def test_a_status_that_is_not_a_number_is_a_failed_try(status: str) -> None:
    event = f'event: error\ndata: {{"error":"a sentence","status":{status}}}\n\n'.encode()

    with pytest.raises(CallFailedError, match="a sentence"):
        call(lambda _: httpx.Response(200, stream=Stream([WAITING, event])))


@pytest.mark.parametrize("seconds", ['"soon"', "[1]", "{}", "true", "-1", "0"])
def test_a_time_to_retry_that_is_not_valid_is_ignored(seconds: str) -> None:
    data = f'{{"error":"busy","status":503,"retry_after":{seconds}}}'
    event = f"event: error\ndata: {data}\n\n".encode()

    with pytest.raises(CallRefusedError) as caught:
        call(lambda _: httpx.Response(200, stream=Stream([event])))

    assert caught.value.retry_after_seconds is None


def test_a_refusal_has_the_time_to_retry() -> None:
    with pytest.raises(CallRefusedError) as refusal:
        call(lambda _: httpx.Response(429, json={"error": "busy"}, headers={"retry-after": "7"}))

    assert refusal.value.retry_after_seconds == 7

    event = b'event: error\ndata: {"error":"busy","status":503,"retry_after":9}\n\n'
    with pytest.raises(CallRefusedError) as later:
        call(lambda _: httpx.Response(200, stream=Stream([PROGRESS, event])))

    assert later.value.retry_after_seconds == 9


@pytest.mark.parametrize(
    "content",
    [
        PROGRESS,
        PROGRESS + RESULT[:-20],
        b'event: error\ndata: {"error":"the engine failed"}\n\n',
        b"event: result\ndata: {}\n\n",
        b"event: result\ndata: no json\n\n",
        b'event: result\ndata: {"predictions":[{"image":{"format":"png","b64":"?"}}]}\n\n',
        b'event: result\ndata: {"predictions":[]}\n\n',
        b'event: result\ndata: {"predictions":["x"]}\n\n',
        b'event: result\ndata: {"predictions":{"image":null}}\n\n',
        *(RESULT.replace(b"png", one) for one in (b"png\\r\\nx: y", b"../png", b"svg+xml", b"")),
        *(
            RESULT.replace(b'"seed":1', b'"seed":' + one)
            for one in (b"NaN", b"1e999", b'"\\udc00"')
        ),
        RESULT.replace(b'"seed":1', b'"seed":' + b"[" * 10_000 + b"]" * 10_000),
    ],
)
def test_a_stream_without_a_result_is_a_failed_try(content: bytes) -> None:
    with pytest.raises(CallFailedError):
        call(lambda _: httpx.Response(200, stream=Stream([content])))


@pytest.mark.parametrize(
    ("step", "steps"),
    [(one, "2") for one in ("null", '"1"', "1.5", "true", "-1", "NaN", "[]", "10000000000")]
    + [("1", one) for one in ("null", "2.0", "-1", "{}", "10000000000000000000")],
)
def test_progress_that_cannot_be_stored_is_a_failed_try(step: str, steps: str) -> None:
    event = f'event: progress\ndata: {{"step":{step},"steps":{steps}}}\n\n'.encode()
    with pytest.raises(CallFailedError, match="progress from the predictor is not valid"):
        call(lambda _: httpx.Response(200, stream=Stream([event, RESULT])))


def test_an_error_that_cannot_be_stored_is_replaced() -> None:
    content = b'{"error": "\\ud800"}'
    with pytest.raises(CallRejectedError) as rejection:
        call(lambda _: httpx.Response(400, content=content))

    assert str(rejection.value) == "the predictor responded with status 400"


def test_pictures_that_can_never_be_stored_are_not_tried_again() -> None:
    large = RESULT.replace(b"cGljdHVyZQ==", b"QUFB" * 1000)
    with pytest.raises(CallRejectedError, match="more than 2048 bytes"):
        call(lambda _: httpx.Response(200, stream=Stream([large])), max_stored_bytes=2048)


def test_a_body_that_cannot_be_decoded_is_a_failed_try() -> None:
    headers = {"content-encoding": "gzip"}
    with pytest.raises(CallFailedError):
        call(lambda _: httpx.Response(200, headers=headers, stream=Stream([RESULT])))


@pytest.mark.parametrize("number", ["1.2.3", "1e999", "e"])
def test_lanes_that_are_not_a_number_are_unknown(number: str) -> None:
    text = f'diffusion_lanes{{model_name="sd"}} {number}\n'

    async def run() -> int | None:
        client = PredictorClient(Settings())
        client._client = httpx.AsyncClient(
            transport=httpx.MockTransport(lambda _: httpx.Response(200, text=text))
        )
        try:
            return await client.lanes("sd")
        finally:
            await client.close()

    assert asyncio.run(run()) is None


def test_the_lanes_of_all_replicas_count(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo

    def two_replicas_and_one_that_is_gone(host: str, *rest: Any, **options: Any) -> list[Any]:
        hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"] if host == "predictor.test" else [host]
        return [info for one in hosts for info in resolve(one, *rest, **options)]

    monkeypatch.setattr("socket.getaddrinfo", two_replicas_and_one_that_is_gone)

    async def lanes(url: str, model: str, metrics_urls: str = "") -> int | None:
        client = PredictorClient(Settings(predictor_url=url, metrics_urls=metrics_urls))
        try:
            return await client.lanes(model)
        finally:
            await client.close()

    with ScriptedPredictor() as one, ScriptedPredictor(one.port, "127.0.0.2") as other:
        one.lanes, other.lanes = 4, 6
        url = f"http://predictor.test:{one.port}"
        assert asyncio.run(lanes(url, "stable-diffusion")) == 10
        assert asyncio.run(lanes(url, "other")) is None
        assert asyncio.run(lanes(one.url, "stable-diffusion")) == 4
        metrics = f"stable-diffusion={url}"
        assert asyncio.run(lanes(one.url, "stable-diffusion", metrics)) == 10
        metrics = "stable-diffusion=http://127.0.0.3:9"
        assert asyncio.run(lanes(one.url, "stable-diffusion", metrics)) == 4, "it is unreachable"
    assert asyncio.run(lanes("http://127.0.0.1:9", "stable-diffusion")) is None


def test_the_url_has_the_model() -> None:
    settings = Settings(predictor_url="http://{model}.images.svc/")

    assert settings.url_of("sd15") == "http://sd15.images.svc"
