"""Reads the metrics that a server exports to Prometheus."""

from __future__ import annotations

import time

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.serving import MODEL_NAME


def samples(text: str, name: str) -> list[Sample]:
    """The samples called ``name`` in the text of ``/metrics``."""
    families = text_string_to_metric_families(text)
    return [sample for family in families for sample in family.samples if sample.name == name]


def metric(url: str, name: str, **labels: str) -> float:
    """The value of the sample with these labels, or 0 if there is none yet."""
    wanted = {"model_name": MODEL_NAME, **labels}
    found = samples(httpx.get(f"{url}/metrics").text, name)
    return next((one.value for one in found if one.labels == wanted), 0.0)


def wait_for_metric(url: str, name: str, least: float, **labels: str) -> None:
    """Poll the server until the sample is at least ``least``."""
    deadline = time.monotonic() + 60
    while metric(url, name, **labels) < least:
        assert time.monotonic() < deadline, f"{name} {labels} is not {least}"
        time.sleep(0.05)
