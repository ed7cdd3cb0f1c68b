"""The bounds of a connection of the jobs program, over raw sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn import Config
from uvicorn.server import ServerState

from jobs.api.connection import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_PIPELINED,
    MAX_URL_BYTES,
    BoundedConnection,
)
from tests.jobs.jobs_process import JobsServer
from tests.predictor.raw_http import answers, connected, exchange, get, received

CLOSE = "Connection: close"
CHUNKED = "Transfer-Encoding: chunked"
BODY = json.dumps({"prompt": "a red star"}).encode()
LIVE = "/v2/health/live"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobsServer]:
    """A server without a predictor, so that jobs wait."""
    folder: Path = tmp_path_factory.mktemp("jobs")
    path = str(folder / "jobs.sqlite3")
    with JobsServer.running(folder / "log", "http://127.0.0.1:9", sqlite_path=path) as running:
        yield running


def live(*headers: str, query: str = "") -> bytes:
    return get(*headers, target=LIVE + query)


def post(*headers: str, body: bytes = BODY) -> bytes:
    """A submission with these headers; ``body`` is as it is sent."""
    lines = ["POST /v1/jobs HTTP/1.1", "Host: test", CLOSE, *headers]
    if CHUNKED not in headers:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def head_of(length: int) -> bytes:
    """A request of exactly ``length`` bytes."""
    return live(CLOSE, "X: " + "a" * (length - len(live(CLOSE, "X: "))))


@pytest.mark.parametrize(
    ("longest", "too_long", "status", "words"),
    [
        (head_of(MAX_HEAD_BYTES), head_of(MAX_HEAD_BYTES + 8192), 431, "longer than 65536 bytes"),
        (
            live(CLOSE, *["A: b"] * (MAX_HEADERS - 2)),
            live(CLOSE, *["A: b"] * (MAX_HEADERS - 1)),
            431,
            "more than 100 headers",
        ),
        (
            live(CLOSE, query="?" + "a" * (MAX_URL_BYTES - len(LIVE) - 1)),
            live(CLOSE, query="?" + "a" * (MAX_URL_BYTES - len(LIVE))),
            414,
            "longer than 8192 bytes",
        ),
    ],
    ids=["bytes", "headers", "url"],
)
def test_heads_are_bounded(
    server: JobsServer, longest: bytes, too_long: bytes, status: int, words: str
) -> None:
    (accepted,) = exchange(server, longest)
    (refused,) = exchange(server, too_long)

    assert accepted.status == 200
    assert (refused.status, refused.headers["connection"]) == (status, "close")
    assert words in refused.error


@pytest.mark.parametrize(
    "endless",
    [b"GET /", b"GET / HTTP/1.1\r\nX", b"GET / HTTP/1.1\r\nX: "],
    ids=["url", "name", "value"],
)
def test_a_head_without_an_end_is_refused(server: JobsServer, endless: bytes) -> None:
    (refused,) = exchange(server, endless + b"a" * (2 * MAX_HEAD_BYTES))

    assert refused.status in (414, 431)


@pytest.mark.parametrize(
    "request_",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n",
        post("Content-Length: 3"),
        post(CHUNKED, "Content-Length: 3", body=b"0\r\n\r\n"),
        post(CHUNKED, body=b"zz\r\n"),
    ],
    ids=["words", "version", "path", "connect", "lengths", "smuggled", "chunk"],
)
def test_a_request_that_is_not_valid_gets_a_sentence(server: JobsServer, request_: bytes) -> None:
    (refused,) = exchange(server, request_)

    assert (refused.status, refused.headers["connection"]) == (400, "close")
    assert "HTTP/1.1" in refused.error or "CONNECT" in refused.error


def test_an_upgrade_is_ignored(server: JobsServer) -> None:
    """As Java's HTTP client offers HTTP/2."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAA")
    request = post(*offer).replace(f"{CLOSE}\r\n".encode(), b"")

    accepted, probe = exchange(server, request, live(CLOSE))

    assert (accepted.status, probe.status) == (202, 200)


def test_pipelined_requests_are_answered_in_order(server: JobsServer) -> None:
    found = exchange(server, live() + get(target="/x") + live(CLOSE))

    assert [one.status for one in found] == [200, 404, 200]


def test_a_refusal_comes_after_the_responses_that_are_due(server: JobsServer) -> None:
    """The request that is not valid gets none: it would look like the response to another one."""
    (found,) = exchange(server, live() + b"nonsense\r\n\r\n")

    assert found.status == 200


def test_pipelined_requests_are_bounded(server: JobsServer) -> None:
    many = 100 * MAX_PIPELINED

    found = exchange(server, live() * many)

    assert MAX_PIPELINED <= len(found) < many
    assert {one.status for one in found} == {200}
    assert found[-1].headers["connection"] == "close"


def test_a_client_that_expects_100_continue_gets_it_only_if_its_body_is_read(
    server: JobsServer,
) -> None:
    expect = "Expect: 100-continue"
    with connected(server) as connection:
        connection.sendall(post(expect)[: -len(BODY)])
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        (accepted,) = answers(received(connection))
    too_large = b"Content-Length: 999999999"
    (refused,) = exchange(server, post(expect, body=b"").replace(b"Content-Length: 0", too_large))

    assert accepted.status == 202
    assert refused.status == 413


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nothing", 404, None),
        ("PUT", "/v1/jobs", 405, "GET, HEAD, POST"),
        ("OPTIONS", "/v1/jobs", 405, "GET, HEAD, POST"),
        ("PATCH", "/v1/jobs/x", 405, "DELETE, GET, HEAD"),
        ("GET", "/generate", 405, "POST"),
        ("TRACE", LIVE, 405, "GET, HEAD"),
    ],
)
def test_the_router_answers_in_the_form_of_all_errors(
    server: JobsServer, method: str, path: str, status: int, allow: str | None
) -> None:
    response = server.request(method, path)

    assert (response.status_code, response.headers.get("allow")) == (status, allow)
    assert list(response.json()) == ["error"]
    assert path in response.json()["error"]


def test_head_has_the_headers_of_get(server: JobsServer) -> None:
    url = f"/v1/jobs/{server.submit()['id']}"
    # The document of a job that has ended does not change.
    server.request("DELETE", url)

    heads = [server.request("HEAD", path) for path in (url, f"{url}/events", "/v1/jobs", LIVE)]

    assert [one.status_code for one in heads] == [200] * 4
    assert heads[1].headers["content-type"].startswith("text/event-stream")
    assert heads[0].headers["content-length"] == str(len(server.request("GET", url).content))


@pytest.mark.parametrize("requests", [1, 2])
def test_a_client_that_closes_its_own_side_gets_its_answers(
    server: JobsServer, requests: int
) -> None:
    """The answers come after the end of the requests, because the job does not end."""
    keeps = post("Prefer: wait=1").replace(f"{CLOSE}\r\n".encode(), b"")
    with connected(server) as client:
        client.sendall(keeps * requests)
        client.shutdown(socket.SHUT_WR)
        found = answers(received(client))

    assert [one.status for one in found] == [202] * requests
    assert found[-1].headers["connection"] == "close"


class _Quick(BoundedConnection):
    """Waits for a moment instead of 20 seconds."""

    head_seconds = 0.2


class _Crowded(BoundedConnection):
    """Has a place for two connections."""

    most_connections = staticmethod(lambda: 2)


class _Held:
    """A server in this process, whose response waits for ``release``."""

    def __init__(self, protocol: type[BoundedConnection] = _Quick, keep_alive: int = 60) -> None:
        self.started, self.release = asyncio.Event(), asyncio.Event()
        self._protocol = protocol
        self._keep_alive = keep_alive

    async def _respond(self, request: Request) -> Response:
        self.started.set()
        await self.release.wait()
        return PlainTextResponse(await request.body())

    async def __aenter__(self) -> tuple[_Held, int]:
        app = Starlette(routes=[Route("/", self._respond, methods=["GET", "POST"])])
        config = Config(app, log_config=None, lifespan="off", timeout_keep_alive=self._keep_alive)
        self._state = state = ServerState()
        self._server = await asyncio.get_running_loop().create_server(
            lambda: self._protocol(config, state, {}), "127.0.0.1", 0
        )
        return self, self._server.sockets[0].getsockname()[1]

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self._state.connections:
            connection.transport.abort()
        await asyncio.sleep(0)


async def _exchange(port: int, *pieces: bytes) -> bytes:
    """Send the pieces, and read until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    try:
        return await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()
        await asyncio.sleep(0)


def test_a_head_that_takes_too_long_is_refused() -> None:
    async def main() -> bytes:
        async with _Held() as (_, port):
            return await _exchange(port, b"GET / HTTP/1.1\r\nHost: te")

    (refused,) = answers(asyncio.run(main()))

    assert refused.status == 408
    assert refused.error == "the headers were not complete after 0.2 s"


@pytest.mark.parametrize("silence", [b"", b"\r\n"])
def test_a_connection_without_a_request_is_closed(silence: bytes) -> None:
    async def main() -> bytes:
        async with _Held() as (_, port):
            return await _exchange(port, silence)

    assert asyncio.run(main()) == b""


def test_a_byte_that_begins_no_request_does_not_keep_a_connection() -> None:
    async def main() -> bytes:
        async with _Held(keep_alive=1) as (held, port):
            held.release.set()
            return await _exchange(port, get(), b"\r\n")

    (found,) = answers(asyncio.run(main()))

    assert found.status == 200


def test_a_response_that_takes_long_is_not_cut() -> None:
    async def main() -> bytes:
        async with _Held() as (held, port):
            timer = asyncio.get_running_loop().call_later(5 * _Quick.head_seconds, held.release.set)
            # The head of the next request is late, which ends the connection after the response.
            found = await _exchange(port, get(), b"GET / HTTP/1.1\r\nHost: te")
            timer.cancel()
            return found

    (found,) = answers(asyncio.run(main()))

    assert (found.status, found.headers["connection"]) == (200, "close")


def test_the_oldest_silent_connection_makes_room() -> None:
    async def main() -> tuple[bytes, bytes]:
        async with _Held(_Crowded) as (held, port):
            busy = asyncio.create_task(_exchange(port, get(CLOSE)))
            await held.started.wait()
            silent = asyncio.create_task(_exchange(port))
            last = asyncio.create_task(_exchange(port, get(CLOSE)))
            assert await silent == b""
            held.release.set()
            return await busy, await last

    found = [answers(data)[0].status for data in asyncio.run(main())]

    assert found == [200, 200]


def test_connections_that_arrive_at_once_are_bounded() -> None:
    arrived = []

    class Counted(_Crowded):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            arrived.append(self)

    async def main() -> None:
        async with _Held(Counted) as (held, port):
            with contextlib.ExitStack() as clients:
                for _ in range(6):
                    clients.enter_context(socket.create_connection(("127.0.0.1", port)))
                async with asyncio.timeout(10):
                    while len(arrived) < 6 or len(held._state.connections) > 2:  # noqa: ASYNC110
                        await asyncio.sleep(0)

    asyncio.run(main())


class _Watching(_Held):
    """Sets ``release`` once the client of its first request has left."""

    async def _respond(self, request: Request) -> Response:
        self.started.set()
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.release.set()
        return PlainTextResponse()


def test_a_request_ends_with_its_connection_although_others_follow_it() -> None:
    """Otherwise it would compute a response for a client that has left."""

    async def main() -> None:
        async with _Watching() as (held, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(get() + get())
            await held.started.wait()
            lingers_not = struct.pack("ii", 1, 0)
            client = writer.get_extra_info("socket")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingers_not)
            writer.transport.abort()
            await asyncio.wait_for(held.release.wait(), 10)

    asyncio.run(main())
