"""The metrics of the queue in Prometheus' text format, the same in every replica."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jobs.job import STATUSES
from jobs.storage import ModelState

# Name, type and meaning; docs/jobs.md has the same table.
QUEUED = ("diffusion_jobs_queued", "gauge", "Jobs that wait.")
RUNNING = ("diffusion_jobs_running", "gauge", "Jobs that a worker runs, or tries to.")
OLDEST = (
    "diffusion_jobs_oldest_seconds",
    "gauge",
    "The time since the submission of the oldest job that waits; 0 if none does.",
)
ENDED = ("diffusion_jobs_ended_total", "counter", "Jobs that have ended, by status.")
METRICS = (QUEUED, RUNNING, OLDEST, ENDED)


def metrics_text(states: Mapping[str, ModelState]) -> str:
    """All metrics; the names of models need no escapes (``Settings.models``)."""
    lines: list[str] = []
    for name, kind, meaning in METRICS:
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
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
