"""Kubernetes: whether its API has every field of our objects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from deploy.checks.finding import Finding
from deploy.cluster import Cluster
from deploy.objects import Object

TITLE = "Kubernetes"
# What the chart asks for; an older API refuses fields of the Job, or drops them unseen.
OLDEST = (1, 29)


def check(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """By the API server's own version, as in `v1.32.4-gke.100`."""
    match = re.match(r"v(\d+)\.(\d+)", cluster.version)
    if match is None:
        yield Finding("warn", f"Kubernetes is of unknown version: {cluster.version!r}")
    elif (int(match[1]), int(match[2])) < OLDEST:
        yield Finding(
            "fail",
            f"Kubernetes {cluster.version} is older than {'.'.join(map(str, OLDEST))}",
            "Update the cluster, or choose another: kubectl config get-contexts",
        )
    else:
        yield Finding("ok", f"Kubernetes {cluster.version} runs")
