"""The metrics of the storage in Prometheus' text format, the same in every replica."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jobs.job import STATUSES, WEBHOOK_OUTCOMES
from jobs.storage import ModelState, WebhookState

# Name, type and meaning; docs/jobs.md has the same table.
QUEUED = ("diffusion_jobs_queued", "gauge", "Jobs that wait.")
RUNNING = ("diffusion_jobs_running", "gauge", "Jobs that a worker runs, or tries to.")
OLDEST = (
    "diffusion_jobs_oldest_seconds",
    "gauge",
    "The time since the submission of the oldest job that waits; 0 if none does.",
)
ENDED = ("diffusion_jobs_ended_total", "counter", "Jobs that have ended, by status.")
WEBHOOKS = ("diffusion_jobs_webhooks", "gauge", "Webhooks that are not delivered yet.")
OLDEST_WEBHOOK = (
    "diffusion_jobs_webhooks_oldest_seconds",
    "gauge",
    "The time since the event of the oldest webhook that is not delivered; 0 if there is none.",
)
ENDED_WEBHOOKS = (
    "diffusion_jobs_webhooks_ended_total",
    "counter",
    "Webhooks that are not sent again, by outcome.",
)
WEBHOOK_FAILURES = (
    "diffusion_jobs_webhook_failures_total",
    "counter",
    "Tries of webhooks that have failed.",
)
JOB_METRICS = (QUEUED, RUNNING, OLDEST, ENDED)
METRICS = (*JOB_METRICS, WEBHOOKS, OLDEST_WEBHOOK, ENDED_WEBHOOKS, WEBHOOK_FAILURES)


def metrics_text(states: Mapping[str, ModelState], webhooks: WebhookState) -> str:
    """All metrics; the names of models need no escapes (``Settings.models``)."""
    lines: list[str] = []
    for name, kind, meaning in METRICS:
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
        if (name, kind, meaning) not in JOB_METRICS:
            lines += _webhook_samples(name, webhooks)
            continue
        for model, state in states.items():
            lines += _samples(name, model, state)
    return "\n".join(lines) + "\n"


def _samples(name: str, model: str, state: ModelState) -> Iterator[str]:
    if name == ENDED[0]:
        for status in STATUSES[3:]:
            label = f'model_name="{model}",status="{status}"'
            yield f"{name}{{{label}}} {state.ended.get(status, 0)}"
        return
    values = {
        QUEUED[0]: state.queued,
        RUNNING[0]: state.running,
        OLDEST[0]: round(state.oldest_seconds, 3),
    }
    yield f'{name}{{model_name="{model}"}} {values[name]}'


def _webhook_samples(name: str, state: WebhookState) -> Iterator[str]:
    if name == ENDED_WEBHOOKS[0]:
        for outcome in WEBHOOK_OUTCOMES:
            yield f'{name}{{outcome="{outcome}"}} {state.ended.get(outcome, 0)}'
        return
    values = {
        WEBHOOKS[0]: state.waiting,
        OLDEST_WEBHOOK[0]: round(state.oldest_seconds, 3),
        WEBHOOK_FAILURES[0]: state.failures,
    }
    yield f"{name} {values[name]}"
