"""What operators see of each request: its identifier, a log line, metrics and a trace."""

from __future__ import annotations

import logging
import re
import time
from http import HTTPStatus
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from predictor.edge.middleware import CALLER_LEFT
from predictor.edge.refusals import refusal_of
from predictor.edge.stream import LastEvent
from predictor.edge.tracing import Tracing
from predictor.metrics import REFUSED
from predictor.request_context import (
    RequestContext,
    enter_request,
    trace_id_of,
    valid_request_id,
)
from predictor.wire_formats import error_form

logger = logging.getLogger("predictor.access")

REQUEST_ID = "x-request-id"
# The routes that the kubelet, KServe and Prometheus call every few seconds.
_PROBES = re.compile(
    r"/|/metrics|/v2/health/\w+|/v1/models(/[^/:]+)?|/v2/models/[^/]+/ready", re.ASCII
)
_MAX_PATH_LENGTH = 1024


class TelemetryMiddleware:
    """Identify each request, and report how it ended; probes only get an identifier.

    It wraps the whole application, so that every response has the identifier.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = MutableHeaders(scope=scope)
        request = RequestContext(
            valid_request_id(headers.get(REQUEST_ID)),
            trace_id_of(headers.get("traceparent")),
            error_form=error_form(scope["path"]),
        )
        # KServe logs the header as it is.
        headers[REQUEST_ID] = request.request_id
        enter_request(request)
        report = _Report(scope, request, self._tracing, send)
        try:
            await self._app(scope, receive, report.send)
        except Exception as error:
            request.error = type(error)
            report.end(HTTPStatus.INTERNAL_SERVER_ERROR)
            raise
        finally:
            report.end(CALLER_LEFT)


class _Report:
    """One response, up to its end."""

    def __init__(self, scope: Scope, request: RequestContext, tracing: Tracing, send: Send) -> None:
        self._scope = scope
        self._request = request
        self._send = send
        self._started = time.perf_counter()
        self._is_probe = scope["method"] == "GET" and bool(_PROBES.fullmatch(scope["path"]))
        self._span = None if self._is_probe else tracing.start(scope, request)
        self._status = 0
        self._is_ended = self._is_probe

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message.setdefault("headers", [])
            MutableHeaders(scope=message)[REQUEST_ID] = self._request.request_id
            self._status = message["status"]
        else:
            if isinstance(message.get("body"), LastEvent):
                self._status = message["body"].status
            if not message.get("more_body", False):
                # Before the caller sees the end, so that the log and the metrics are never behind.
                self.end(self._status)
        await self._send(message)

    def end(self, status: int) -> None:
        """Report the status; only the first call counts."""
        if self._is_ended:
            return
        self._is_ended = True
        self._count(status)
        self._log(status)
        if self._span is not None:
            self._span.end(status)

    def _count(self, status: int) -> None:
        if reason := refusal_of(self._request.error, status):
            REFUSED.labels(reason).inc()

    def _log(self, status: int) -> None:
        scope, seconds = self._scope, time.perf_counter() - self._started
        # Quoted, so that a path cannot break a line; without the query, which may be anything.
        path = quote(scope["path"][:_MAX_PATH_LENGTH], safe="/:")
        client = "{}:{}".format(*scope["client"]) if scope.get("client") else "-"
        fields = {
            "method": scope["method"],
            "path": path,
            "status": int(status),
            "seconds": round(seconds, 3),
            "client": client,
        }
        if self._request.caller:
            fields["key"] = self._request.caller
        logger.info(
            '%s %.3f s - "%s %s HTTP/%s" %d %s',
            client,
            seconds,
            scope["method"],
            path,
            scope.get("http_version", "1.1"),
            status,
            _phrase(status),
            extra=fields,
        )


def _phrase(status: int) -> str:
    if status == CALLER_LEFT:
        return "Client Closed Request"
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
