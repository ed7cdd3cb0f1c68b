"""Read speed: how fast the volume gave its weights to the pods that run already."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from deploy.checks.finding import Finding
from deploy.cluster import Cluster
from deploy.errors import ForbiddenError, RefusedError
from deploy.objects import Object, dig, name_of
from deploy.observe import ISVC_LABEL
from deploy.workload import INFERENCE_SERVICE, MODEL_CONTAINER, services

TITLE = "read speed"
# What the predictor logs after each load, also inside a line of JSON.
READ_LINE = re.compile(r"model (\S+): read (\d+) MB of files in ([\d.]+) s, (\d+) MB/s")
# A model loads at the start of a log. The rest, of up to 10 MB, takes long to fetch.
_MAX_LINES = 2_000
# Building a pipeline takes seconds, so the time for a small model says little about the volume.
_LEAST_MB = 500
# Network file storage of a usual size reaches this; a local disk reaches ten times as much.
_SLOW_MB_PER_SECOND = 200


class Read(NamedTuple):
    """One load of a model's weights, by a pod."""

    pod: str
    model: str
    megabytes: int
    seconds: float
    speed: int


def check(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """Warn about pods that have read their weights slowly; before the first start all is well."""
    reads = [one for one in _reads(cluster, objects) if one.megabytes >= _LEAST_MB]
    if not reads:
        yield Finding("ok", "no pod has read a large model yet, so the read speed is unknown")
        return
    slowest = min(reads, key=lambda one: one.speed)
    what = (
        f"pod {slowest.pod} read the {slowest.megabytes} MB of model {slowest.model} in "
        f"{slowest.seconds:g} s, at {slowest.speed} MB/s"
    )
    if slowest.speed >= _SLOW_MB_PER_SECOND:
        yield Finding("ok", what)
        return
    yield Finding(
        "warn",
        f"{what}, which every cold start has to wait for",
        "Use a faster storage class or a larger volume, because many classes scale the speed with "
        "the size. On a CPU, also check the CPU limit. docs/operations.md lists the phases of a "
        "cold start.",
    )


def _reads(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Read]:
    if not cluster.knows(*INFERENCE_SERVICE):
        return
    for service in services(objects):
        for pod in cluster.list("v1", "Pod", labels=f"{ISVC_LABEL}={name_of(service)}"):
            if _has_started(pod):
                yield from _reads_of(cluster, name_of(pod))


def _has_started(pod: Object) -> bool:
    statuses = dig(pod, "status", "containerStatuses") or ()
    return any(
        one["name"] == MODEL_CONTAINER and "waiting" not in (one.get("state") or {})
        for one in statuses
    )


def _reads_of(cluster: Cluster, pod: str) -> Iterator[Read]:
    """Each load in the log of the pod; none if the pod has just ended."""
    try:
        lines = list(islice(cluster.log(pod, MODEL_CONTAINER, follow=False), _MAX_LINES))
    except ForbiddenError:
        raise
    except RefusedError:
        return
    for found in filter(None, map(READ_LINE.search, lines)):
        model, megabytes, seconds, speed = found.groups()
        yield Read(pod, model, int(megabytes), float(seconds), int(speed))
