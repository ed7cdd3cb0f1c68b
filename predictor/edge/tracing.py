"""Traces by OpenTelemetry, for operators who set an OTLP endpoint in the standard variables.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import Scope

from predictor.edge.inference_routes import inference_route
from predictor.request_context import RequestContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
# How long the process waits at its end for a collector that does not answer.
_FLUSH_SECONDS = 5.0


class Tracing:
    """Sends a trace of each predict call, from a thread of its own; does nothing if it is off."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("predictor") if provider else None

    @classmethod
    def from_environment(
        cls, service_name: str, environment: Mapping[str, str] = os.environ
    ) -> Tracing:
        """Traces as the ``OTEL_`` variables say; off without an endpoint.

        ``service_name`` is the default of ``OTEL_SERVICE_NAME``.
        """
        if not _is_enabled(environment):
            return cls()
        try:
            provider = _open_provider(service_name)
        except ImportError as error:
            logger.warning(
                "an OTLP endpoint is set, but %s is not installed, so there are no traces: install "
                "the extra `tracing`",
                error.name,
            )
            return cls()
        logger.info("traces of predict calls go to the OTLP endpoint")
        return cls(provider)

    def start(self, scope: Scope, request: RequestContext) -> RequestSpan | None:
        """Begin the span of a call of a model, and set the trace of ``request``."""
        route = inference_route(scope["path"]) if self._tracer else None
        if self._tracer is None or route is None:
            return None
        return RequestSpan(self._tracer, scope, request, route)

    def close(self) -> None:
        """Send the remaining spans, within a few seconds."""
        if self._provider is None:
            return
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_FLUSH_SECONDS)
        if closing.is_alive():
            logger.warning("the OTLP endpoint did not take the last spans within 5 s")


class RequestSpan:
    """The server span of one call; its stages become child spans when it ends."""

    def __init__(self, tracer: Tracer, scope: Scope, request: RequestContext, route: str) -> None:
        from opentelemetry.trace import SpanKind, format_trace_id
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._request = request
        # From the clock of the stages to the Unix epoch.
        self._epoch = time.time() - time.perf_counter()
        self._span: Span = tracer.start_span(
            f"{scope['method']} {route}",
            TraceContextTextMapPropagator().extract(dict(Headers(scope=scope))),
            SpanKind.SERVER,
            _http_attributes(scope, request, route),
        )
        if (context := self._span.get_span_context()).is_valid:
            request.trace_id = format_trace_id(context.trace_id)

    def end(self, status: int) -> None:
        """End the span with the status of the response."""
        from opentelemetry.trace import StatusCode

        self._add_stages()
        self._span.set_attributes(self._request.attributes)
        self._span.set_attribute("http.response.status_code", int(status))
        # As the conventions define it: an error of the caller is not an error of the server.
        if status >= 500:
            error = self._request.error
            self._span.set_attribute("error.type", error.__name__ if error else str(int(status)))
            self._span.set_status(StatusCode.ERROR)
        self._span.end()

    def _add_stages(self) -> None:
        from opentelemetry.trace import set_span_in_context

        parent = set_span_in_context(self._span)
        for stage, seed in self._request.stages:
            began = self._epoch + stage.started
            child = self._tracer.start_span(
                stage.stage,
                parent,
                attributes={} if seed is None else {"gen_ai.request.seed": seed},
                start_time=_nanoseconds(began),
            )
            child.end(_nanoseconds(began + stage.seconds))


def _is_enabled(environment: Mapping[str, str]) -> bool:
    if not any(environment.get(name) for name in _ENDPOINTS):
        return False
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp").strip() == "none":
        return False
    protocol = next(filter(None, map(environment.get, _PROTOCOLS)), "http/protobuf")
    if protocol != "http/protobuf":
        logger.warning(
            "the OTLP protocol is %s, but only http/protobuf is supported, so there are no traces",
            protocol,
        )
        return False
    return True


def _open_provider(service_name: str) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: service_name}))
    # `close` ends it, in less time than its own handler.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _http_attributes(
    scope: Scope, request: RequestContext, route: str
) -> dict[str, str | list[str]]:
    """https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server-span."""
    attributes: dict[str, str | list[str]] = {
        "http.request.method": scope["method"],
        "http.route": route,
        "url.path": scope["path"],
        "url.scheme": scope.get("scheme", "http"),
        "http.request.header.x-request-id": [request.request_id],
    }
    if scope.get("client"):
        attributes["client.address"] = scope["client"][0]
    if user_agent := Headers(scope=scope).get("user-agent"):
        attributes["user_agent.original"] = user_agent
    return attributes


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
