"""Outcomes to figures: rates, percentiles, ratios, and the printed table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from bench.load import Run

Figures = dict[str, Any]


def summary(runs: Sequence[Run]) -> Figures:
    """The median of each measure over the rounds, and the total number of errors."""
    outcomes = [outcome for run in runs for outcome in run.outcomes]
    errors = [outcome.error for outcome in outcomes if outcome.error]
    return {
        "requests": len(outcomes),
        "errors": len(errors),
        **{name: round(median(map(measure, runs)), 4) for name, measure in MEASURES.items()},
        **({"first_error": errors[0]} if errors else {}),
    }


def _rate(run: Run) -> float:
    return sum(outcome.error is None for outcome in run.outcomes) / run.seconds


def _latency(part: float) -> Callable[[Run], float]:
    return lambda run: percentile([outcome.seconds for outcome in run.outcomes], part)


def _first_step(part: float) -> Callable[[Run], float]:
    return lambda run: percentile([outcome.first_step_seconds for outcome in run.outcomes], part)


MEASURES: Mapping[str, Callable[[Run], float]] = {
    "images_per_second": _rate,
    "p50": _latency(0.50),
    "p95": _latency(0.95),
    "p99": _latency(0.99),
    "first_step_p50": _first_step(0.50),
    "first_step_p95": _first_step(0.95),
}


def percentile(values: Iterable[float], part: float) -> float:
    """Nearest-rank percentile: the smallest value that at least ``part`` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * part // 1).__trunc__() - 1)]


def ratios(
    runs: Mapping[str, Sequence[Run]], middle: Callable[[Iterable[float]], float]
) -> dict[str, Figures]:
    """Ratios of ``ours`` to each other contestant: taken per round, then the ``middle`` of them."""
    ours = runs.get("ours", ())
    return {
        name: {
            measure: round(
                middle(
                    figure(mine) / figure(its) if figure(its) else 0.0
                    for mine, its in zip(ours, theirs, strict=True)
                ),
                3,
            )
            for measure, figure in MEASURES.items()
        }
        for name, theirs in runs.items()
        if name != "ours"
    }


def table(name: str, figures: Figures) -> str:
    """A plain-text table with one line per contestant and part."""
    heads = ["images/s", "p50", "p95", "p99", "step 1 p50", "step 1 p95", "requests", "errors"]
    keys = [*MEASURES, "requests", "errors"]
    lines = [f"{name:28}" + "".join(f"{head:>12}" for head in heads)]
    for label, row in _rows("", figures):
        lines.append(f"{label:28}" + "".join(f"{row.get(key, ''):>12}" for key in keys))
    return "\n".join(lines)


def _rows(label: str, figures: Figures) -> Iterator[tuple[str, Figures]]:
    for contestant, row in figures.get("contestants", {}).items():
        yield f"{label} {contestant}".strip(), row
    for other, row in figures.get("ratios", {}).items():
        yield f"{label} ours / {other}".strip(), row
    for part, inner in figures.items():
        if isinstance(inner, dict) and "contestants" in inner:
            yield from _rows(part, inner)
