"""Requests that are too long or not valid HTTP: an answer in one form, and a closed connection."""

from __future__ import annotations

import asyncio
import errno
import time
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from predictor.edge.connection import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_URL_BYTES,
    BoundedConnection,
)
from tests.predictor.metric_samples import metric, wait_for_metric
from tests.predictor.raw_http import BODY, connected, exchange, get, predict, received
from tests.serving import Server

CLOSE = "Connection: close"
CHUNKED = "Transfer-Encoding: chunked"


def head_of(length: int) -> bytes:
    """A request of exactly ``length`` bytes."""
    return get(CLOSE, "X: " + "a" * (length - len(get(CLOSE, "X: "))))


@pytest.mark.parametrize(
    ("longest", "status", "words"),
    [
        (head_of(MAX_HEAD_BYTES), 431, "longer than 65536 bytes"),
        (get(CLOSE, *["A: b"] * (MAX_HEADERS - 2)), 431, "more than 100 headers"),
        (get(CLOSE, target="/?" + "a" * (MAX_URL_BYTES - 2)), 414, "longer than 8192 bytes"),
    ],
    ids=["bytes", "headers", "url"],
)
def test_heads_are_bounded(server: Server, longest: bytes, status: int, words: str) -> None:
    name = b"aa" if status == 414 else b"X: y\r\nHost: "
    too_long = longest.replace(b"a" if status == 414 else b"Host: ", name, 1)

    (accepted,) = exchange(server, longest)
    (refused,) = exchange(server, too_long)

    assert accepted.status == 200
    assert (refused.status, refused.headers["connection"]) == (status, "close")
    assert words in refused.error


@pytest.mark.parametrize(
    "endless",
    [
        get("X: ")[:-4],
        predict(CHUNKED, framed=False, body=b"1\r\n{\r\n1;"),
        predict(CHUNKED, framed=False, body=b"1\r\n{\r\n0\r\nX: "),
        b"\r\n",
    ],
    ids=["header", "chunk extension", "trailer", "no request"],
)
def test_an_endless_head_is_refused_at_once(server: Server, endless: bytes) -> None:
    filler = b"\r\n" * 20_000_000 if endless == b"\r\n" else b"a" * 40_000_000
    started = time.monotonic()

    (refused,) = exchange(server, endless, filler)

    assert refused.status == 431
    # Quadratic work takes minutes.
    assert time.monotonic() - started < 20
    assert httpx.get(server.url).status_code == 200


def test_a_head_in_many_pieces_is_read(server: Server) -> None:
    with connected(server) as connection:
        for byte in get(CLOSE, "X: " + "a" * 200):
            connection.sendall(bytes([byte]))

        assert received(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("expected", ["Expect: 100-continue", "X: y"])
def test_a_long_body_is_refused_before_it_is_sent(server: Server, expected: str) -> None:
    request = predict(expected, "Content-Length: 99999999", framed=False, body=b"")

    (refused,) = exchange(server, request)

    assert (refused.status, refused.headers["connection"]) == (413, "close")
    assert "longer than 16777216 bytes" in refused.error


def test_a_long_chunked_body_is_refused_while_the_client_still_sends(server: Server) -> None:
    chunk = b"%x\r\n%s\r\n" % (1 << 20, b" " * (1 << 20))

    (refused,) = exchange(server, predict(CHUNKED, framed=False, body=b""), *[chunk] * 40)

    assert (refused.status, refused.headers["connection"]) == (413, "close")


def test_a_body_that_waits_for_permission_is_read(server: Server) -> None:
    with connected(server) as connection:
        connection.sendall(predict(CLOSE, "Expect: 100-continue").removesuffix(BODY))
        permission = connection.recv(65536)
        connection.sendall(BODY)
        response = received(connection)

    assert permission == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert response.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "zstd", "nonsense"])
def test_a_compressed_body_is_refused(server: Server, encoding: str) -> None:
    (refused,) = exchange(server, predict(f"Content-Encoding: {encoding}"))

    assert (refused.status, refused.headers["accept-encoding"]) == (415, "identity")
    assert "without Content-Encoding" in refused.error


def test_each_content_encoding_counts(server: Server) -> None:
    request = predict("Content-Encoding: identity", "Content-Encoding: gzip")

    (refused,) = exchange(server, request)

    assert refused.status == 415


@pytest.mark.parametrize(
    "request_",
    [
        predict(CLOSE, CHUNKED, framed=False, body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)),
        predict(
            CLOSE,
            CHUNKED,
            framed=False,
            body=b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in BODY) + b"0\r\nAccept: no\r\n\r\n",
        ),
        predict(CLOSE, "Content-Encoding: identity"),
        predict().replace(b"HTTP/1.1", b"HTTP/1.0"),
        predict("Connection: Upgrade, HTTP2-Settings, close", "Upgrade: h2c", "HTTP2-Settings: AA"),
        predict("Connection: Upgrade, close", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    ],
    ids=["chunked", "small chunks and a trailer", "identity", "HTTP/1.0", "h2c", "websocket"],
)
def test_an_unusual_request_gets_its_picture(server: Server, request_: bytes) -> None:
    (answer,) = exchange(server, request_)

    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")


@pytest.mark.parametrize(
    "request_",
    [
        predict("Content-Length: 5", CHUNKED, framed=False, body=b"0\r\n\r\n"),
        predict("Content-Length: 5", "Content-Length: 6", framed=False),
        predict("Content-Length: -1", framed=False),
        predict(CHUNKED, framed=False, body=b"xyz\r\n"),
        predict(CHUNKED, framed=False, body=b"1\r\n{\r\nxyz\r\n"),
        predict("Transfer-Encoding: gzip", framed=False),
        predict("Transfer-Encoding: gzip, chunked", framed=False, body=b"0\r\n\r\n"),
        predict("Transfer-Encoding: gzip", CHUNKED, framed=False, body=b"0\r\n\r\n"),
        predict("No colon"),
        predict("Na me: x"),
        predict("X: a\0b"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT test:443 HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: test\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"NONSENSE\r\n\r\n",
        b"NONSENSE " * 30_000,
    ],
)
def test_what_is_not_http_gets_400_and_no_trace(server: Server, request_: bytes) -> None:
    before = server.log.read_text()

    (refused,) = exchange(server, request_)

    assert (refused.status, refused.headers["connection"]) == (400, "close")
    assert refused.error
    assert "Traceback" not in server.log.read_text().removeprefix(before)


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    found = exchange(server, predict() + get(target="/v1/models") + get(CLOSE))

    assert [answer.status for answer in found] == [200, 200, 200]
    assert found[0].headers["content-type"] == "image/png"
    assert b"models" in found[1].body
    assert b"alive" in found[2].body


def test_many_pipelined_upgrades_are_answered(server: Server) -> None:
    before = server.log.read_text()
    offers = get("Connection: upgrade", "Upgrade: x") * 1000

    found = exchange(server, offers + get(CLOSE))

    assert [answer.status for answer in found] == [200] * 1001
    assert "Traceback" not in server.log.read_text().removeprefix(before)


def test_an_invalid_request_does_not_take_the_answer_of_the_one_before(server: Server) -> None:
    (answer,) = exchange(server, predict() + b"NONSENSE\r\n\r\n")

    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert answer.headers["connection"] == "close"


def test_a_trailer_is_not_a_header(server: Server) -> None:
    body = b"%x\r\n%s\r\n0\r\nAccept: application/json\r\n\r\n" % (len(BODY), BODY)
    with connected(server) as connection:
        connection.sendall(predict(CLOSE, CHUNKED, framed=False, body=body))

        assert b"content-type: image/png" in received(connection)


def test_a_refusal_in_a_body_is_counted_by_its_status(server: Server) -> None:
    def count() -> float:
        return metric(server.url, "diffusion_requests_total", code="431")

    before = count()
    (refused,) = exchange(server, predict(CHUNKED, framed=False, body=b"1;" + b"a" * 200_000))

    assert refused.status == 431
    wait_for_metric(server.url, "diffusion_requests_total", before + 1, code="431")


def test_many_pipelined_requests_are_answered(server: Server) -> None:
    found = exchange(server, get() * 2_000 + get(CLOSE))

    assert [answer.status for answer in found] == [200] * 2_001


class Transport(asyncio.Transport):
    """Neither sends nor receives."""

    def __init__(self) -> None:
        super().__init__()
        self.is_reading = True
        self.is_closed = False

    def write(self, data: Any) -> None:
        pass

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True


def test_few_pipelined_requests_are_parsed_at_a_time() -> None:
    """The others stay bytes, and the client cannot send more of them."""
    most, waiting = [], []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        most.append(len(connection.pipeline))
        waiting.append(transport.is_reading)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def answer_all() -> None:
        connection.connection_made(transport)
        connection.data_received(get() * 2_000)
        async with asyncio.timeout(60):
            while len(most) < 2_000:  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(0)
        connection.connection_lost(None)

    config = Config(app, log_level="critical", lifespan="off")
    transport = Transport()
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        connection = BoundedConnection(config, ServerState(), {}, loop)
        runner.run(answer_all())

    assert len(most) == 2_000
    assert max(most) < 150
    assert not any(waiting[:1_800])


def test_refusing_a_client_that_has_reset_the_connection_raises_nothing() -> None:
    """The operating system then refuses to close the server's side (ENOTCONN)."""
    connection = BoundedConnection.__new__(BoundedConnection)
    connection.transport = Mock()
    connection.transport.write_eof.side_effect = OSError(errno.ENOTCONN, "not connected")
    connection._clock = Mock()

    connection._linger()

    connection.transport.close.assert_called_once_with()
