"""Kubernetes: its version, and whether its API serves every kind in the folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from deploy.checks.finding import Finding
from deploy.cluster import Cluster
from deploy.explain import explain_refusal
from deploy.objects import Object

TITLE = "Kubernetes"
# The chart's minimum. An older API refuses fields of the Job or drops them silently.
OLDEST = (1, 29)


def check(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """A kind without its CRD fails, KServe's own included."""
    yield _version(cluster)
    yield from _kinds(cluster, objects)


def _version(cluster: Cluster) -> Finding:
    """By the API server's own version, as in `v1.32.4-gke.100`."""
    match = re.match(r"v(\d+)\.(\d+)", cluster.version)
    if match is None:
        return Finding("warn", f"the version of Kubernetes is unknown: {cluster.version!r}")
    if (int(match[1]), int(match[2])) < OLDEST:
        return Finding(
            "fail",
            f"Kubernetes {cluster.version} is older than {'.'.join(map(str, OLDEST))}",
            "Update the cluster, or use another one: kubectl config get-contexts",
        )
    return Finding("ok", f"Kubernetes {cluster.version} runs")


def _kinds(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    kinds = dict.fromkeys((item["apiVersion"], item["kind"]) for item in objects)
    unknown = [(version, kind) for version, kind in kinds if not cluster.knows(version, kind)]
    for version, kind in unknown:
        explanation = explain_refusal(f'no matches for kind "{kind}" in version "{version}"')
        assert explanation
        yield Finding("fail", explanation.reason, explanation.advice)
    if not unknown:
        yield Finding("ok", f"the cluster knows all {len(kinds)} kinds of objects")
