"""What Prometheus is told beside KServe's own metrics, whose buckets end at 10 seconds."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from predictor.engine import Engine

REQUESTS = Counter(
    "diffusion_requests",
    "Predict calls by HTTP status, streams by what they ended with; 499: the caller left.",
    ["model_name", "code"],
)
REQUEST_SECONDS = Histogram(
    "diffusion_request_seconds",
    "Duration of predict calls, waiting included.",
    ["model_name"],
    buckets=(0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600),
)
BLOCK_LIST_FAILURES = Counter(
    "diffusion_block_list_failures",
    "How often the block list's file could not be read again; the last good list holds.",
)
MODEL_LOADS = Counter(
    "diffusion_model_loads",
    "Models brought into memory, and tries that failed.",
    ["model_name", "outcome"],
)
MODEL_LOAD_SECONDS = Histogram(
    "diffusion_model_load_seconds",
    "Duration of a load, from the turn to load to the end of the warm-up.",
    ["model_name"],
    buckets=(1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600),
)
MODEL_UNLOADS = Counter("diffusion_model_unloads", "Models taken out of memory.", ["model_name"])
MODEL_BYTES = Gauge(
    "diffusion_model_bytes",
    "What the model's weights take; 0 while it is not in memory.",
    ["model_name"],
)

CALLER_LEFT = 499
_SERVER_ERROR = 500
_PREDICT = re.compile(r"/v1/models/([^/:]+):predict")


def begin_series(model_name: str) -> None:
    """A series that begins at 1 shows no increase: Prometheus would miss the first failure."""
    for code in (200, 500):
        REQUESTS.labels(model_name, code)
    for outcome in ("loaded", "failed"):
        MODEL_LOADS.labels(model_name, outcome)
    MODEL_UNLOADS.labels(model_name)
    MODEL_BYTES.labels(model_name)


@dataclass
class _Outcome:
    code: int = CALLER_LEFT


# One for each call; tasks that are started for a call have the same.
_OUTCOME: ContextVar[_Outcome] = ContextVar("outcome")


def note_outcome(code: int) -> None:
    """Count the call under way as one that ended so, whatever status was sent at its beginning."""
    _OUTCOME.get().code = code


class MetricsMiddleware:
    """Count and time the predict calls of models that there are.

    Other names would make labels without end.
    """

    def __init__(self, app: ASGIApp, is_served: Callable[[str], bool]) -> None:
        self._app = app
        self._is_served = is_served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note the status that is sent, and the time until all is sent."""
        found = _PREDICT.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            return await self._app(scope, receive, send)
        name, outcome, started = found[1], _Outcome(), time.perf_counter()
        _OUTCOME.set(outcome)

        async def noting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                outcome.code = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        except Exception:
            outcome.code = _SERVER_ERROR
            raise
        finally:
            # Asked at the end: the request itself may have brought a new model to light.
            if self._is_served(name):
                REQUESTS.labels(name, outcome.code).inc()
                REQUEST_SECONDS.labels(name).observe(time.perf_counter() - started)


class EngineCollector(Collector):
    """Asks the engines when Prometheus asks."""

    def __init__(self) -> None:
        self._engines: dict[str, Engine] = {}

    def watch(self, model_name: str, engine: Engine) -> None:
        """Tell of this engine from now on."""
        self._engines[model_name] = engine

    def unwatch(self, model_name: str) -> None:
        """Let go of the engine."""
        self._engines.pop(model_name, None)

    def collect(self) -> Iterable[Metric]:
        """The state of each engine; see ``EngineState``."""
        pictures = GaugeMetricFamily(
            "diffusion_pictures",
            "Pictures waiting for the engine and under way in it.",
            labels=["model_name", "state"],
        )
        lanes = GaugeMetricFamily(
            "diffusion_lanes", "The most samples of one forward pass.", labels=["model_name"]
        )
        out_of_memory = CounterMetricFamily(
            "diffusion_out_of_memory",
            "Batches that did not fit and were halved.",
            labels=["model_name"],
        )
        safety = CounterMetricFamily(
            "diffusion_safety",
            "What the safety layers did; pass: they found nothing; error: they could not judge.",
            labels=["model_name", "layer", "action"],
        )
        for name, engine in list(self._engines.items()):
            state = engine.state
            pictures.add_metric([name, "waiting"], state.waiting)
            pictures.add_metric([name, "under_way"], state.under_way)
            lanes.add_metric([name], state.lanes)
            out_of_memory.add_metric([name], state.out_of_memory)
            for (layer, action), count in state.safety.items():
                safety.add_metric([name, layer, action], count)
        return pictures, lanes, out_of_memory, safety


ENGINES = EngineCollector()
REGISTRY.register(ENGINES)
