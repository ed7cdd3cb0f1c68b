"""A receiver of webhooks, which can be hostile; the path of the URL says how it responds.

| path | the response |
| --- | --- |
| ``/ok`` | 204 |
| ``/redirect/<port>`` | 307 to that port of the same host |
| ``/gone`` | 410 |
| ``/flaky`` | 500 to the first request, then 204 |
| ``/huge`` | 200 with a body that never ends |
| ``/closes`` | none: the connection is closed |
| ``/hangs`` | none until ``release``, then 204 |
| ``/stalls`` | none to the first request, then 204 |
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.jobs.threaded_server import ThreadedServer

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


@dataclass(frozen=True)
class Message:
    """A request to the receiver; the names of the headers are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    def signatures(self) -> list[str]:
        return self.headers["webhook-signature"].split(" ")


def signature_of(message: Message, key: bytes = KEY) -> str:
    """By the specification of Standard Webhooks, independent of the code under test."""
    signed = f"{message.id}.{message.headers['webhook-timestamp']}.".encode() + message.body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


class Receiver(ThreadedServer):
    """The server; ``messages`` has all requests in order of arrival."""

    def __init__(self, port: int | None = None) -> None:
        super().__init__(port)
        self.messages: list[Message] = []
        # Set once a client has ended the connection of a body without an end.
        self.huge_ended = threading.Event()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """See ``ThreadedServer.handler``."""
        return type("Handler", (_Handler,), {"receiver": self})

    def use_tls(self, context: ssl.SSLContext) -> None:
        """Accept connections with TLS only."""
        assert self._server is not None
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def received(self, path: str, event: str | None = None) -> list[Message]:
        """The messages at a path, of one type if it is given."""
        return [
            message
            for message in list(self.messages)
            if message.path == path and event in (None, message.document["type"])
        ]


class _Handler(BaseHTTPRequestHandler):
    receiver: Receiver

    def log_message(self, *_: object) -> None:
        """Write no log."""

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        body = self.rfile.read(length)
        if len(body) < length:
            # The sender was killed before it had sent the whole message.
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        receiver = self.receiver
        receiver.messages.append(Message(self.path, headers, body))
        with suppress(OSError):
            self._answer(receiver)

    def _answer(self, receiver: Receiver) -> None:
        kind, _, target = self.path[1:].partition("/")
        match kind:
            case "redirect":
                self._respond(307, {"location": f"http://127.0.0.1:{target}/ok"})
            case "gone":
                self._respond(410)
            case "flaky":
                self._respond(500 if len(receiver.received(self.path)) == 1 else 204)
            case "huge":
                self._send_forever()
            case "closes":
                self.close_connection = True
            case "hangs":
                receiver.released.wait(120)
                self._respond(204)
            case "stalls" if len(receiver.received(self.path)) == 1:
                receiver.released.wait(120)
            case _:
                self._respond(204)

    def _respond(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def _send_forever(self) -> None:
        self._respond(200, {"content-type": "text/plain"})
        try:
            while True:
                self.wfile.write(b"x" * 65_536)
        except OSError:
            self.receiver.huge_ended.set()
