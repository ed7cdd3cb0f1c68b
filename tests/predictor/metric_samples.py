"""What a server tells Prometheus."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def samples(told: str, name: str) -> list[Sample]:
    """Those of that name in what ``/metrics`` told."""
    families = text_string_to_metric_families(told)
    return [sample for family in families for sample in family.samples if sample.name == name]
