"""Quota: the namespace's ResourceQuotas and LimitRanges admit our pods and leave room for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from deploy.admission import Platform, admitted, breaches, unset
from deploy.checks import knative, kserve
from deploy.checks.finding import Finding
from deploy.cluster import Cluster
from deploy.objects import Object, dig, name_of, title
from deploy.workload import deployment_mode, pod_specs, quantity, requests_of

TITLE = "quota"
# A quota on one of these refuses pods with a container that does not set it
# (k8s.io/kubernetes, pkg/quota/v1/evaluator/core/pods.go).
_MUST_BE_SET = (
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
)


def check(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """A pod that would be refused fails. Too little room only warns: others may free some."""
    quotas, limit_ranges = cluster.list("v1", "ResourceQuota"), cluster.list("v1", "LimitRange")
    if not quotas and not limit_ranges:
        yield Finding("ok", f"namespace {cluster.namespace} has no quota and no LimitRange")
        return
    pods = _admitted(cluster, objects, limit_ranges)
    refusals = [
        *(f"{title(item)}: {text}" for item, spec in pods for text in breaches(spec, limit_ranges)),
        *(line for one in quotas for line in _refusals(one, pods)),
    ]
    if refusals:
        yield Finding(
            "fail",
            f"pods will be refused: {'; '.join(refusals)}",
            "Set it in the resources of the container (chart values `predictor.resources`, "
            "`downloader.resources`, `jobs.resources`; for queue-proxy "
            "`predictor.queueProxyResources`), or let a LimitRange set defaults.",
        )
    new = [
        requests_of(spec)
        for item, spec in pods
        if cluster.get(item["apiVersion"], item["kind"], name_of(item)) is None
        for _ in range(dig(item, "spec", "replicas") or 1)
    ]
    lacking = [line for one in quotas for line in _lacking(one, new)]
    if lacking:
        yield Finding(
            "warn",
            f"the quota does not leave enough: {'; '.join(lacking)}",
            "Delete what holds it, lower our requests, or ask for a larger ResourceQuota.",
        )
    if not refusals and not lacking:
        yield Finding("ok", f"{', '.join(map(name_of, [*quotas, *limit_ranges]))} admits our pods")


def _admitted(
    cluster: Cluster, objects: Sequence[Object], limit_ranges: Sequence[Object]
) -> list[tuple[Object, Object]]:
    platform = Platform(
        cluster.get("v1", "ConfigMap", "inferenceservice-config", kserve.NAMESPACE),
        cluster.get("v1", "ConfigMap", "config-deployment", knative.NAMESPACE),
        cluster.get("v1", "ConfigMap", "config-features", knative.NAMESPACE),
        limit_ranges,
    )
    default = kserve.default_mode(cluster)
    return [
        (item, admitted(item, spec, deployment_mode(item, default), platform))
        for item, spec in pod_specs(objects)
    ]


def _refusals(quota: Object, pods: Sequence[tuple[Object, Object]]) -> Iterator[str]:
    """What must be set and is not; a quota with scopes may not be about our pods at all."""
    hard = dig(quota, "spec", "hard") or dig(quota, "status", "hard") or {}
    if dig(quota, "spec", "scopes") or dig(quota, "spec", "scopeSelector"):
        return
    for item, spec in pods:
        for resource in _MUST_BE_SET:
            if resource in hard and (names := unset(spec, resource)):
                yield f"{name_of(quota)}: {title(item)} sets no {resource} for {', '.join(names)}"


def _lacking(quota: Object, pods: Sequence[dict[str, Decimal]]) -> Iterator[str]:
    limits = dig(quota, "status", "hard") or dig(quota, "spec", "hard") or {}
    for resource, limit in limits.items():
        wanted = sum((pod.get(resource, Decimal(0)) for pod in pods), Decimal(0))
        used = dig(quota, "status", "used", resource) or "0"
        if wanted and wanted > quantity(limit) - quantity(used):
            yield (f"{name_of(quota)}: {resource} wanted {wanted:g}, used {used}, allowed {limit}")
