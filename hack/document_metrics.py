"""Write the table of metrics in docs/api.md from the metrics; ``--check`` only compares."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

ROOT = Path(__file__).resolve().parent.parent
# A script has its own folder on the import path, not the repository's root.
sys.path.insert(0, str(ROOT))

from hack.marked_tables import renewed, write  # noqa: E402
from predictor import metrics  # noqa: E402

DOCUMENT = ROOT / "docs" / "api.md"
# By the last word of a name; other metrics count things.
UNITS = {"seconds": "seconds", "bytes": "bytes", "megapixels": "megapixels"}


def documented(document: str) -> str:
    """The document with its generated table updated."""
    return renewed(document, "metrics", metrics_table())


def metrics_table() -> str:
    """A Markdown table with one row per metric of the predictor; not padded, as rows are long."""
    head = ("metric", "type", "labels", "unit", "meaning")
    rows = [head, ("---",) * len(head), *_rows()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _rows() -> Iterator[tuple[str, ...]]:
    """All metrics in the order of the module, those without samples too."""
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            yield _row(metric._get_metric(), metric._labelnames)
    for family in metrics.ENGINES.collect():
        yield _row(family, getattr(family, "_labelnames", ()))


def _row(metric: Metric, labels: Iterable[str]) -> tuple[str, ...]:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    unit = UNITS.get(metric.name.rpartition("_")[2], "")
    in_code = ", ".join(f"`{label}`" for label in labels)
    return f"`{name}`", metric.type, in_code, unit, metric.documentation


def main(arguments: Sequence[str] | None = None) -> int:
    """See ``write``."""
    return write({DOCUMENT: documented}, "the table of metrics", arguments)


if __name__ == "__main__":
    sys.exit(main())
