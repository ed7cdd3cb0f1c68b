"""An OpenTelemetry collector for tests: it takes spans over OTLP/HTTP and keeps them."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """The spans that arrive at ``url``, and the attributes of the services that send them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Any] = []
        self.resources: list[dict[str, Any]] = []
        self._arrived = threading.Condition()

    @classmethod
    @contextlib.contextmanager
    def started(cls) -> Iterator[Collector]:
        """Listen on a free port."""

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector._add(self.path, body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Keep the output of the tests clean."""

        listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        collector = cls(f"http://127.0.0.1:{listener.server_port}")
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        try:
            yield collector
        finally:
            listener.shutdown()
            listener.server_close()

    def wait_for(self, count: int) -> list[Any]:
        """The spans, once there are at least ``count``."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.spans) >= count, 60), len(self.spans)
            return list(self.spans)

    def _add(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        message = ExportTraceServiceRequest.FromString(body)
        with self._arrived:
            for resource in message.resource_spans:
                self.resources.append(attributes(resource.resource))
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
            self._arrived.notify_all()


def attributes(holder: Any) -> dict[str, Any]:
    """The attributes of a span or a resource."""
    return {one.key: _value(one.value) for one in holder.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)
