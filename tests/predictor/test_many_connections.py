"""More connections than the process may hold open."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

from tests.predictor.raw_http import connected, get, received
from tests.serving import Server

SOFT = 256
HARD = 420
BOUND = HARD - 200


def is_open(connection: socket.socket) -> bool:
    """Whether the server answers a request on the connection."""
    try:
        connection.sendall(get("Connection: close"))
        return received(connection).startswith(b"HTTP/1.1 200 ")
    except (ConnectionResetError, BrokenPipeError):
        return False


def test_connections_are_bounded(demo_model: Path, tmp_path: Path) -> None:
    limit = ("prlimit", f"--nofile={SOFT}:{HARD}")
    with (
        Server.started(demo_model, tmp_path / "log", prefix=limit) as server,
        ExitStack() as opened,
    ):
        server.wait_until_ready()
        crowd = [opened.enter_context(connected(server)) for _ in range(600)]
        # The server has raised its soft limit.
        server.wait_for_log(f"closed a new connection: {BOUND} are open already")
        found = [is_open(connection) for connection in crowd]
        log = server.log.read_text()
        server.wait_for("/")

    assert 0 < sum(found) < len(crowd)
    assert log.count("closed a new connection") == 1
    assert log.count("out of system resource") <= 1
