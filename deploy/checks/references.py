"""References: the classes, accounts, ConfigMaps and queues that our objects name exist."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.checks.finding import Finding, Level
from deploy.cluster import Cluster
from deploy.dependencies import DataUse, Reference, data_used, references
from deploy.errors import ForbiddenError
from deploy.objects import Object, dig, name_of, of_kind

TITLE = "references"
_ADVICE = {
    "PriorityClass": "Create it, or name one of `kubectl get priorityclasses` (chart values "
    "predictor.priorityClassName, downloader.priorityClassName, jobs.priorityClassName).",
    "RuntimeClass": "Name one of `kubectl get runtimeclasses` (chart value "
    "predictor.runtimeClassName). NVIDIA's GPU operator and its container toolkit for k3s and "
    "RKE2 create `nvidia`.",
    "ServiceAccount": "Create it, or let the chart create one (chart values "
    "predictor.serviceAccountName, downloader.serviceAccountName, jobs.serviceAccountName empty).",
    "ResourceClaim": "Create the claim, or name another one (chart value "
    "predictor.resourceClaims).",
    "ResourceClaimTemplate": "Create the template, or name another one (chart value "
    "predictor.resourceClaims).",
    "LocalQueue": "Name one of `kubectl get localqueues` in the label kueue.x-k8s.io/queue-name "
    "(chart value downloader.jobLabels). Without its queue the Job stays suspended.",
}
_ABSENT = {
    "LocalQueue": "Kueue is not installed, so the label has no effect. Install it, or remove the "
    "label.",
    "ResourceClaim": "The cluster has no dynamic resource allocation (Kubernetes 1.34, or a "
    "feature gate before). Request a device plugin's resource instead.",
}
_ABSENT["ResourceClaimTemplate"] = _ABSENT["ResourceClaim"]


def check(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """Each that is missing fails; each that we may not read warns."""
    config_maps = [one for one in data_used(objects) if one.kind == "ConfigMap"]
    judged = [
        *(_reference(cluster, objects, one) for one in references(objects)),
        *(_config_map(cluster, objects, one) for one in config_maps if not one.optional),
    ]
    findings = [one for one in judged if one]
    yield from findings or [Finding("ok", "everything that our objects name exists")]


def _reference(cluster: Cluster, objects: Sequence[Object], use: Reference) -> Finding | None:
    what = f"{use.kind.lower()} {use.name!r}, which {use.user} names,"
    if use.name in map(name_of, of_kind(objects, use.kind)):
        return None
    served = [one for one in use.api_versions if cluster.knows(one, use.kind)]
    if not served:
        level: Level = "warn" if use.kind == "LocalQueue" else "fail"
        return Finding(level, f"{what} does not exist", _ABSENT.get(use.kind, ""))
    try:
        found = cluster.get(served[0], use.kind, use.name)
    except ForbiddenError as error:
        return Finding("warn", f"{what} cannot be checked", str(error))
    return None if found else Finding("fail", f"{what} does not exist", _ADVICE[use.kind])


def _config_map(cluster: Cluster, objects: Sequence[Object], use: DataUse) -> Finding | None:
    own = (one for one in of_kind(objects, "ConfigMap") if name_of(one) == use.name)
    try:
        found = next(own, None) or cluster.get("v1", "ConfigMap", use.name)
    except ForbiddenError as error:
        return Finding("warn", f"configmap {use.name!r} cannot be checked", str(error))
    keys = sorted({*(dig(found, "data") or {}), *(dig(found, "binaryData") or {})})
    if found and (not use.key or use.key in keys):
        return None
    has = f"; it has {', '.join(keys)}" if keys else ""
    state = f"has no key {use.key!r}{has}" if found else "does not exist"
    return Finding(
        "fail",
        f"configmap {use.name!r} {state}, and {use.user} needs it",
        f"Add it: kubectl --namespace {cluster.namespace} create configmap {use.name} "
        f"--from-file={use.key or 'KEY'}=FILE --dry-run=client -o yaml "
        "| kubectl apply --server-side -f -",
    )
