"""Requests as bytes on a socket, for what HTTP clients do not send."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx

from tests.serving import PREDICT, Server

BODY = json.dumps({"prompt": "a red star", "parameters": {"num_inference_steps": 2}}).encode()


class Answer(NamedTuple):
    """One response; the header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The sentence of an error, which has no other field, except for A1111's clients."""
        assert self.headers["content-type"] == "application/json", self
        document = json.loads(self.body)
        assert list(document) in (["error"], ["error", "detail", "body", "errors"])
        return str(document.get("detail", document["error"]))


@contextlib.contextmanager
def connected(server: Server, seconds: float = 60) -> Iterator[socket.socket]:
    """A connection whose reads wait for at most ``seconds``."""
    address = ("127.0.0.1", int(httpx.URL(server.url).port or 0))
    with socket.create_connection(address, timeout=seconds) as connection:
        yield connection


def exchange(server: Server, *pieces: bytes) -> list[Answer]:
    """Send the pieces, then read all responses until the server closes the connection."""
    with connected(server) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return answers(received(connection))


def received(connection: socket.socket) -> bytes:
    """Everything that the server sends until it closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def answers(data: bytes) -> list[Answer]:
    """The responses in ``data``, which must have a ``Content-Length``."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        code = int(status.split(" ")[1])
        length = int(headers.get("content-length", 0)) if code >= 200 else 0
        assert len(data) >= length, "the response is truncated"
        found.append(Answer(code, headers, data[:length]))
        data = data[length:]
    return found


def predict(*headers: str, body: bytes = BODY, **framing: Any) -> bytes:
    """A predict call with these headers, ``Content-Length`` unless ``framed=False``."""
    lines = [f"POST {PREDICT} HTTP/1.1", "Host: test", *headers]
    if framing.get("framed", True):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def get(*headers: str, target: str = "/", version: str = "1.1") -> bytes:
    """A GET request with these headers."""
    return "\r\n".join([f"GET {target} HTTP/{version}", "Host: test", *headers, "", ""]).encode()
