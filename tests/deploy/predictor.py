"""A small server that answers the v1 protocol with a picture, like a predictor behind a gateway."""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

MODEL = "stable-diffusion-v1-5"


class Predictor:
    """Answers only for one host name, like a gateway."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.bodies: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.answer: tuple[int, str, bytes] = (200, "image/png", _png())
        handler = type("Handler", (_Handler,), {"predictor": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    predictor: Predictor

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if (
            self.headers["Host"] != self.predictor.host
            or self.path != f"/v1/models/{MODEL}:predict"
        ):
            self._send(404, "text/plain", b"no such route")
            return
        self.predictor.authorizations.append(self.headers["Authorization"])
        self.predictor.bodies.append(json.loads(body))
        self._send(*self.predictor.answer)

    def _send(self, status: int, content_type: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("x-seed", "424242")
        self.end_headers()
        self.wfile.write(content)


def _png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "orange").save(stream, "PNG")
    return stream.getvalue()
