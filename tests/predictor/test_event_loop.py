"""The event loop and the GIL stay free while large bodies pass through the server."""

from __future__ import annotations

import asyncio
import base64
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from PIL import Image

from predictor.edge import model as models
from predictor.edge.middleware import PiecesMiddleware
from predictor.errors import GenerationFailedError
from predictor.images import OutputFormat
from predictor.protocol import Call, EncodedResponse, Picture, ResponseEncoder
from predictor.requests import GenerationRequest, GenerationResult, SafetyVerdict
from tests.predictor.extreme_pictures import ACCEPTED, HOSTILE
from tests.predictor.lock_holds import LockHolds
from tests.serving import PREDICT, Server

REQUEST = GenerationRequest("a star", "", 7, 2048, 2048, 20, 7.5, "unipc")


def noise(side: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encoder(
    images: list[Image.Image | None], output_format: OutputFormat = "png", **form: bool
) -> ResponseEncoder:
    results = [
        GenerationResult(
            REQUEST, image, 1.0, safety=() if image else (SafetyVerdict("checker", "block"),)
        )
        for image in images
    ]
    pictures = tuple(Picture(REQUEST, output_format) for _ in images)
    return ResponseEncoder(
        Call(pictures, **form), results, model_name="m", revision="r", embed_metadata=True
    )


def encoded(encoding: ResponseEncoder) -> EncodedResponse:
    for index in range(encoding.pictures):
        encoding.add(index)
    return encoding.response()


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_encoding_the_largest_response_does_not_hold_the_lock(output_format: OutputFormat) -> None:
    image = noise(2048)

    with LockHolds() as holds:
        body = encoded(encoder([image] * 4, output_format, as_json=True)).body

    assert len(orjson.loads(body)["predictions"]) == 4
    assert holds.longest < 0.05


def test_the_base64_of_a_large_file_is_whole() -> None:
    image = noise(600)

    (prediction,) = orjson.loads(encoded(encoder([image], as_json=True)).body)["predictions"]
    bare = encoded(encoder([image], as_json=False)).body

    assert len(bare) > 2**20
    assert base64.b64decode(prediction["image"]["b64"]) == bare
    assert prediction["image"]["format"] == "png"
    assert (prediction["prompt"], prediction["seed"]) == ("a star", 7)


def test_a_blocked_picture_is_null() -> None:
    first, second = orjson.loads(encoded(encoder([noise(8), None], as_json=True)).body)[
        "predictions"
    ]

    assert first["image"]["format"] == "png"
    assert second["image"] is None
    assert second["safety"] == [{"layer": "checker", "action": "block"}]


def test_the_last_event_of_a_stream_holds_the_answer() -> None:
    event = encoded(encoder([noise(8)], as_json=True, as_events=True)).body

    assert event.startswith(b"event: result\ndata: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 3


class LeavingEncoder:
    """An encoder that calls ``sys.exit``, as a library might."""

    pictures = 1

    def add(self, index: int) -> None:
        raise SystemExit


def test_an_exit_in_an_encoder_is_an_internal_error() -> None:
    with pytest.raises(GenerationFailedError, match="the server's log has the cause"):
        asyncio.run(models._encoded(LeavingEncoder()))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 262_144, 262_145, 524_288, 1_000_003])
def test_a_large_body_is_sent_in_pieces(size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    start: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start)
        await send({"type": "http.response.body", "body": body[:size]})

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(PiecesMiddleware(app)({"type": "http"}, None, send))  # type: ignore[arg-type]

    assert sent[0] == start
    assert b"".join(message["body"] for message in sent[1:]) == body[:size]
    assert max(len(message["body"]) for message in sent[1:]) <= 262_144
    assert [message.get("more_body", False) for message in sent[1:]] == (
        [True] * (len(sent) - 2) + [False]
    )


def test_only_predict_takes_a_large_body(client: httpx.Client) -> None:
    response = client.post("/v2/repository/index", content=b"[" * 65_537)

    assert response.status_code == 413
    assert "65536 bytes" in response.json()["error"]


def test_a_large_prompt_list_is_served(client: httpx.Client) -> None:
    """A body above the size that the event loop reads."""
    instance = {"prompt": "a red star", "negative_prompt": "ö, " * 1365}
    parameters = {"num_inference_steps": 1}

    response = client.post(PREDICT, json={"instances": [instance] * 3, "parameters": parameters})

    assert [one["negative_prompt"] for one in response.json()["predictions"]] == ["ö, " * 1365] * 3


def test_probes_are_answered_while_extreme_pictures_are_read(server: Server) -> None:
    files = [HOSTILE["a line of a single pixel"](), ACCEPTED["a lossless WebP"]()]
    files += [ACCEPTED["a PNG with an alpha channel"](), ACCEPTED["the widest PNG"]()]
    steps = {"num_inference_steps": 2, "width": 64, "height": 64}

    def call(file: bytes) -> int:
        body = {"prompt": "a red star", "image": base64.b64encode(file).decode(), **steps}
        return httpx.post(server.url + PREDICT, json=body, timeout=120).status_code

    waits: list[float] = []
    with ThreadPoolExecutor(len(files)) as callers, httpx.Client(base_url=server.url) as probe:
        pending = [callers.submit(call, file) for file in files]
        while not all(one.done() for one in pending):
            began = time.perf_counter()
            assert probe.get("/").status_code == 200
            waits.append(time.perf_counter() - began)
            time.sleep(0.02)

    assert [one.result() for one in pending] == [400, 200, 200, 200]
    # Milliseconds on an idle machine; before, the first file alone took 17 s.
    assert max(waits) < 2
    assert sorted(waits)[len(waits) // 2] < 0.1
