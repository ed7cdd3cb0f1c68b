"""What a server tells Prometheus."""

from __future__ import annotations

import time

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.serving import MODEL_NAME


def samples(told: str, name: str) -> list[Sample]:
    """Those of that name in what ``/metrics`` told."""
    families = text_string_to_metric_families(told)
    return [sample for family in families for sample in family.samples if sample.name == name]


def metric(url: str, name: str, **labels: str) -> float:
    """The sample of that name with these labels, 0 where there is none yet."""
    wanted = {"model_name": MODEL_NAME, **labels}
    found = samples(httpx.get(f"{url}/metrics").text, name)
    return next((one.value for one in found if one.labels == wanted), 0.0)


def wait_for_metric(url: str, name: str, least: float, **labels: str) -> None:
    """Poll the server until that sample is at least so much."""
    deadline = time.monotonic() + 60
    while metric(url, name, **labels) < least:
        assert time.monotonic() < deadline, f"{name} {labels} is not {least}"
        time.sleep(0.05)
