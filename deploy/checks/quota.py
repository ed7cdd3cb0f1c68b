"""Quota: what our pods ask for fits what the namespace's ResourceQuotas leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.checks.finding import Finding
from deploy.cluster import Cluster
from deploy.objects import Object, dig, name_of
from deploy.workload import pod_specs, quantity, requests_of

TITLE = "quota"


def check(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """One pod of each object that is new; only a warning, as others may make room."""
    quotas = cluster.list("v1", "ResourceQuota")
    if not quotas:
        yield Finding("ok", f"namespace {cluster.namespace} has no quota")
        return
    new = [
        requests_of(spec)
        for item, spec in pod_specs(objects)
        if cluster.get(item["apiVersion"], item["kind"], name_of(item)) is None
    ]
    lacking = [line for one in quotas for line in _lacking(one, new)]
    if lacking:
        yield Finding(
            "warn",
            f"the quota does not leave enough: {'; '.join(lacking)}",
            "Delete what holds it, lower our requests, or ask for a larger ResourceQuota.",
        )
    else:
        yield Finding("ok", f"{', '.join(map(name_of, quotas))} leaves enough for our pods")


def _lacking(quota: Object, pods: Sequence[dict[str, float]]) -> Iterator[str]:
    limits = dig(quota, "status", "hard") or dig(quota, "spec", "hard") or {}
    for resource, limit in limits.items():
        wanted = sum(pod.get(resource, 0.0) for pod in pods)
        used = dig(quota, "status", "used", resource) or "0"
        if wanted and wanted > quantity(limit) - quantity(used):
            yield (f"{name_of(quota)}: {resource} wanted {wanted:g}, used {used}, allowed {limit}")
