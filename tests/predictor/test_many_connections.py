"""More connections than the process may hold open."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import Mock

import httpx

from predictor.edge.silent_connections import SilentConnections
from tests.predictor.raw_http import answers, connected, get, received
from tests.serving import Server

SOFT = 256
HARD = 420
BOUND = HARD - 200
# The server waits for its body.
BEGUN = (
    b"POST /v2/repository/index HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
    b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
)


def is_open(connection: socket.socket) -> bool:
    """Whether the server answers a request on the connection."""
    try:
        connection.sendall(get("Connection: close"))
        return received(connection).startswith(b"HTTP/1.1 200 ")
    except (ConnectionResetError, BrokenPipeError):
        return False


@contextmanager
def connected_and_begun(server: Server) -> Iterator[socket.socket]:
    """A connection whose request the server has begun to handle."""
    with connected(server) as connection:
        connection.sendall(BEGUN)
        assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")
        yield connection


def test_connections_are_bounded(tmp_path: Path) -> None:
    limit = ("prlimit", f"--nofile={SOFT}:{HARD}")
    with (
        # Without a model, which takes seconds to load.
        Server.started(
            tmp_path / "model", tmp_path / "log", prefix=limit, max_download_wait_seconds=600
        ) as server,
        ExitStack() as opened,
    ):
        server.wait_for("/")
        crowd = [opened.enter_context(connected(server)) for _ in range(600)]
        # The server has raised its soft limit.
        server.wait_for_log(f"closed the oldest silent connection: {BOUND} are open already")
        probe = httpx.get(server.url + "/v2/health/live")
        found = [is_open(connection) for connection in crowd]
        for connection in crowd:
            connection.close()
        busy = [opened.enter_context(connected_and_begun(server)) for _ in range(BOUND)]
        late = opened.enter_context(connected(server))
        server.wait_for_log(f"closed a new connection: {BOUND} are open already")
        busy[0].sendall(b"{}")
        (answer,) = answers(received(busy[0]))
        log = server.log.read_text()
        late_is_open = is_open(late)
        for connection in busy:
            connection.close()
        server.wait_for("/")

    assert probe.status_code == 200
    assert 0 < sum(found) < len(crowd)
    # The oldest have made room for the newest.
    assert (found[0], found[-1]) == (False, True)
    assert answer.status == 200, "a connection with a request is not closed"
    assert not late_is_open
    assert log.count("closed the oldest silent connection") == 1
    assert log.count("closed a new connection") == 1
    assert log.count("out of system resource") <= 1


def test_connections_that_have_never_sent_a_request_are_closed_first() -> None:
    silent = SilentConnections()
    kept, first, second, busy = (Mock(name=name) for name in ("kept", "first", "second", "busy"))
    silent.add(kept, is_new=False)
    for connection in (busy, first, second):
        silent.add(connection, is_new=True)
    silent.discard(busy)
    # Waiting for longer does not make it younger.
    silent.add(first, is_new=True)

    closed = []
    while silent.close_oldest():
        closed += [
            one
            for one in (kept, first, second, busy)
            if one.transport.abort.called and one not in closed
        ]

    assert closed == [first, second, kept]
