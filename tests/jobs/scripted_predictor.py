"""An HTTP server with the predictor's wire format, whose calls follow the first word of the prompt.

The real predictor takes seconds to start and cannot fail on demand. ``test_end_to_end.py`` uses it.
``python -m tests.jobs.scripted_predictor <port>`` is a process of its own, which can be killed.

| first word | the call |
| --- | --- |
| ``hold`` | is accepted and sends progress until ``release``, or ``finish`` with its prompt |
| ``walk`` | the same, with one more step each time |
| ``busy`` | gets 429 with ``retry-after: 1`` the first time, then succeeds |
| ``full`` | gets 429 with ``retry-after: 600`` |
| ``crash`` | ends the connections of all calls, as if the process died |
| ``drop`` | ends its connection before the response begins |
| ``gateway`` | the same behind Knative's queue-proxy, which responds with 502 |
| ``fail`` | ends with an error event without a status, as that of an older predictor |
| ``stop`` | ends with an error event of status 503 the first time, then succeeds |
| ``reject`` | ends with an error event of status 400 |
| ``invalid`` | gets 400 |
| ``blocked`` | makes a picture that a safety layer blocks |
| ``brief``, ``slow`` | succeeds after some time for each step |
| ``die`` | kills the process of the predictor after its first step |
| any other | succeeds |
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.jobs.threaded_server import ThreadedServer

STEPS = 4
_HOLD_SECONDS = 0.02
_STEP_SECONDS = {"brief": 0.01, "slow": 0.2, "die": 0.01}


def seed_of(body: dict[str, Any]) -> int:
    """The seed of a call, which is never missing."""
    return int({**body, **body.get("parameters", {})}["seed"])


class ScriptedPredictor(ThreadedServer):
    """The server; ``calls`` has the bodies of all calls, ``headers`` theirs, in order."""

    def __init__(self, port: int | None = None, host: str = "127.0.0.1") -> None:
        super().__init__(port, host)
        self.calls: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.lanes = 8
        self.most_at_once = 0
        # The prompts of calls whose caller left before the end.
        self.left: list[str] = []
        self._finished: set[str] = set()
        self._connections: dict[int, socket.socket] = {}

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """See ``ThreadedServer.handler``."""
        return type("Handler", (_Handler,), {"predictor": self})

    def release(self) -> None:
        """Let all calls that hold succeed, from now on."""
        self.released.set()

    def finish(self, prompt: str) -> None:
        """Let one call that holds succeed."""
        self._finished.add(prompt)

    def prompts(self) -> list[str]:
        """The prompts of all calls."""
        return [call["prompt"] for call in self.calls]

    def picture_of(self, body: dict[str, Any]) -> bytes:
        """The picture of a call: the same prompt and seed give the same bytes."""
        return f"picture of {body['prompt']!r} with seed {seed_of(body)}".encode()

    def begin(
        self, connection: socket.socket, body: dict[str, Any], headers: Mapping[str, str]
    ) -> None:
        self.calls.append(body)
        self.headers.append(headers)
        self._connections[id(connection)] = connection
        self.most_at_once = max(self.most_at_once, len(self._connections))

    def end(self, connection: socket.socket) -> None:
        self._connections.pop(id(connection), None)

    def crash(self) -> None:
        """End all connections without a response."""
        for connection in list(self._connections.values()):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def wait(self, seconds: float, prompt: str) -> bool:
        """Wait for ``release`` or ``finish``; True once one was called."""
        return self.released.wait(seconds) or prompt in self._finished


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    predictor: ScriptedPredictor

    def log_message(self, *_: object) -> None:
        """Write no log."""

    def do_GET(self) -> None:
        lanes = f'diffusion_lanes{{model_name="stable-diffusion"}} {float(self.predictor.lanes)}\n'
        self._respond(200, f"# HELP diffusion_lanes x\n{lanes}other 1.0\n".encode(), "text/plain")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        predictor = self.predictor
        predictor.begin(self.connection, body, dict(self.headers))
        try:
            self._call(body)
        except OSError:
            predictor.left.append(body["prompt"])
        finally:
            predictor.end(self.connection)
            self.close_connection = True

    def _call(self, body: dict[str, Any]) -> None:
        word = body["prompt"].split()[0]
        if word == "invalid":
            self._respond(400, b'{"error": "width: 7 is not a multiple of 8"}', "application/json")
        elif word == "busy" and self.predictor.prompts().count(body["prompt"]) == 1:
            error = b'{"error": "the queue is full"}'
            self._respond(429, error, "application/json", {"retry-after": "1"})
        elif word == "full":
            error = b'{"error": "the queue is full"}'
            self._respond(429, error, "application/json", {"retry-after": "600"})
        elif word == "gateway":
            self._respond(502, b"EOF\n", "text/plain; charset=utf-8")
        elif word != "drop":
            self._stream(word, body)

    def _stream(self, word: str, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self._event("progress", {"step": 0, "steps": STEPS})
        if word == "crash":
            self.predictor.crash()
            return
        if word in _STEP_SECONDS:
            self._walk(word)
        step = 1
        prompt = body["prompt"]
        while word in ("hold", "walk") and not self.predictor.wait(_HOLD_SECONDS, prompt):
            self._event("progress", {"step": step, "steps": STEPS})
            step += word == "walk"
        if word == "fail":
            self._event("error", {"error": "picture: the engine failed"})
        elif word == "reject":
            self._event("error", {"error": "prompt: refused by block_list", "status": 400})
        elif word == "stop" and self.predictor.prompts().count(prompt) == 1:
            error = {"error": "the server shuts down", "status": 503, "retry_after": 1}
            self._event("error", error)
        else:
            self._event("progress", {"step": STEPS, "steps": STEPS})
            self._event("result", {"predictions": [self._prediction(word, body)]})
        self.wfile.write(b"0\r\n\r\n")

    def _walk(self, word: str) -> None:
        for step in range(1, STEPS):
            time.sleep(_STEP_SECONDS[word])
            if word == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            self._event("progress", {"step": step, "steps": STEPS})

    def _prediction(self, word: str, body: dict[str, Any]) -> dict[str, Any]:
        content = base64.b64encode(self.predictor.picture_of(body)).decode()
        image = None if word == "blocked" else {"format": "png", "b64": content}
        return {"image": image, "prompt": body["prompt"], "seed": seed_of(body)}

    def _event(self, name: str, data: dict[str, Any]) -> None:
        event = f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
        self.wfile.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
        self.wfile.flush()

    def _respond(
        self, status: int, body: bytes, media_type: str, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    with ScriptedPredictor(int(sys.argv[1])):
        threading.Event().wait()
