"""Prometheus metrics in addition to KServe's own, whose buckets end at 10 seconds.

Labels are bounded: models that are served, API keys of the operator, and the enumerations here.
``hack/document_metrics.py`` writes the table of docs/api.md from the texts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from predictor.engine import Engine

# Why the server refused a request before it generated anything.
Refusal = Literal[
    "queue", "seconds", "limit", "key", "safety", "invalid", "too_large", "not_found",
    "unavailable", "draining",
]  # fmt: skip
REQUESTS = Counter(
    "diffusion_requests",
    "Calls of a model by HTTP status, in all protocols, streams by their final status; "
    "499: the caller disconnected.",
    ["model_name", "code"],
)
REQUEST_SECONDS = Histogram(
    "diffusion_request_seconds",
    "Duration of calls of a model, including the wait.",
    ["model_name"],
    buckets=(0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600),
)
STAGE_SECONDS = Histogram(
    "diffusion_stage_seconds",
    "Time in each stage, of a request: parse (the body and its pictures), encode (the response); "
    "of a picture: queue (waiting for the engine), prepare (noise, input pictures), text (text "
    "encoders), denoise (all steps), decode (VAE, and the wait for it), review (safety layers).",
    ["model_name", "stage"],
    buckets=(0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)
MEGAPIXELS = Counter(
    "diffusion_megapixels",
    "Size of the generated pictures, including those that a safety layer then blocks.",
    ["model_name"],
)
REFUSED = Counter(
    "diffusion_refused",
    "Requests that were refused: queue (full), seconds (too long a wait), limit (of a key or an "
    "address), key (missing, unknown or without permission), safety, invalid, too_large, "
    "not_found, unavailable (the model is not loaded), draining.",
    ["reason"],
)
KEY_MEGAPIXELS = Counter(
    "diffusion_key_megapixels",
    "Size of the pictures generated for each API key; no series without keys.",
    ["key"],
)
BLOCK_LIST_FAILURES = Counter(
    "diffusion_block_list_failures",
    "Failed reloads of the block list; the last good list stays in force.",
)
API_KEYS_FAILURES = Counter(
    "diffusion_api_keys_failures",
    "Failed reloads of the key file; the last good list stays in force.",
)
KEY_REQUESTS = Counter(
    "diffusion_key_requests",
    "Requests by the name of their key and HTTP status; the name is empty without a valid key.",
    ["key", "code"],
)
RATE_LIMIT_STORAGE_FAILURES = Counter(
    "diffusion_rate_limit_storage_failures",
    "Failed calls of the storage of the rate limits. For five seconds after each, requests are "
    "not limited, or rejected, as rate_limit_failure says.",
)
PLAN_FALLBACKS = Counter(
    "diffusion_plan_fallbacks",
    "Combinations of scheduler and steps that no plan reproduces, so that their pictures step one "
    "by one; by the scheduler's name in the API.",
    ["scheduler"],
)
FORWARD_PASSES = Counter(
    "diffusion_forward_passes",
    "Forward passes of the denoiser in the step loop, including those at start: graph (a replayed "
    "CUDA graph) or eager.",
    ["how"],
)
MODEL_LOADS = Counter(
    "diffusion_model_loads",
    "Model loads, by outcome.",
    ["model_name", "outcome"],
)
MODEL_LOAD_SECONDS = Histogram(
    "diffusion_model_load_seconds",
    "Duration of a load, from the start of making room to the end of the warm-up.",
    ["model_name"],
    buckets=(1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600),
)
MODEL_UNLOADS = Counter("diffusion_model_unloads", "Models removed from memory.", ["model_name"])
MODEL_BYTES = Gauge(
    "diffusion_model_bytes",
    "Size of the model's weights and CUDA graphs; 0 while it is not in memory.",
    ["model_name"],
)
LOAD_WAITERS = Gauge(
    "diffusion_load_waiters",
    "Requests that wait for the model to load.",
    ["model_name"],
)


def begin_series(model_name: str) -> None:
    """Start the series at 0: Prometheus sees no increase in a series that begins at 1."""
    for code in (200, 500):
        REQUESTS.labels(model_name, code)
    for outcome in ("loaded", "failed"):
        MODEL_LOADS.labels(model_name, outcome)
    MEGAPIXELS.labels(model_name)
    MODEL_UNLOADS.labels(model_name)
    MODEL_BYTES.labels(model_name)


class EngineCollector(Collector):
    """Reads the state of the engines at each scrape."""

    def __init__(self) -> None:
        self._engines: dict[str, Engine] = {}

    def watch(self, model_name: str, engine: Engine) -> None:
        """Report this engine from now on."""
        self._engines[model_name] = engine

    def unwatch(self, model_name: str) -> None:
        """Stop reporting the model's engine."""
        self._engines.pop(model_name, None)

    def collect(self) -> Iterable[Metric]:
        """The state of each engine; see ``EngineState``."""
        pictures = GaugeMetricFamily(
            "diffusion_pictures",
            "Pictures waiting for the engine (waiting) and in flight in it (in_flight).",
            labels=["model_name", "state"],
        )
        lanes = GaugeMetricFamily(
            "diffusion_lanes",
            "The most samples in one forward pass, as the engine has learned it.",
            labels=["model_name"],
        )
        out_of_memory = CounterMetricFamily(
            "diffusion_out_of_memory",
            "Batches that did not fit into memory and were halved.",
            labels=["model_name"],
        )
        capacity_changes = CounterMetricFamily(
            "diffusion_capacity_changes",
            "Changes of diffusion_lanes that the time of passes shows to pay off: grown (a larger "
            "batch has more throughput), shrunk (half as large a batch has as much).",
            labels=["model_name", "reason"],
        )
        safety = CounterMetricFamily(
            "diffusion_safety",
            "Results of the safety layers; pass: found nothing; error: could not judge.",
            labels=["model_name", "layer", "action"],
        )
        queue_seconds = GaugeMetricFamily(
            "diffusion_queue_seconds",
            "The estimated wait of a picture that arrives now, in seconds.",
            labels=["model_name"],
        )
        up = GaugeMetricFamily(
            "diffusion_engine_up",
            "1 while the engine works, 0 once it has stopped or while it hangs.",
            labels=["model_name"],
        )
        for name, engine in list(self._engines.items()):
            state = engine.state
            up.add_metric([name], not state.failure)
            pictures.add_metric([name, "waiting"], state.waiting)
            pictures.add_metric([name, "in_flight"], state.in_flight)
            lanes.add_metric([name], state.lanes)
            out_of_memory.add_metric([name], state.out_of_memory)
            for reason, count in state.capacity_changes.items():
                capacity_changes.add_metric([name, reason], count)
            for (layer, action), count in state.safety.items():
                safety.add_metric([name, layer, action], count)
            queue_seconds.add_metric([name], state.queue_seconds)
        return pictures, lanes, capacity_changes, out_of_memory, safety, queue_seconds, up


for _reason in get_args(Refusal):
    # At 0, like the series of a model.
    REFUSED.labels(_reason)
for _how in ("graph", "eager"):
    FORWARD_PASSES.labels(_how)
ENGINES = EngineCollector()
REGISTRY.register(ENGINES)
