"""What a new claim is made from: a snapshot, another claim, or a volume that it names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.checks.finding import Finding
from deploy.cluster import Cluster
from deploy.errors import ForbiddenError
from deploy.objects import Object, dig, name_of
from deploy.workload import quantity

_SNAPSHOT = ("snapshot.storage.k8s.io/v1", "VolumeSnapshot")
_CLAIM = ("v1", "PersistentVolumeClaim")


def source_findings(cluster: Cluster, claim: Object, ours: Sequence[Object]) -> Iterator[Finding]:
    """Whether the source of the claim exists, is ready, and fits into the claim."""
    source = dig(claim, "spec", "dataSourceRef") or dig(claim, "spec", "dataSource") or {}
    name, who = str(source.get("name")), f"claim {name_of(claim)!r}"
    if source.get("kind") == "VolumeSnapshot":
        yield _snapshot(cluster, claim, name, who)
    elif source.get("kind") == "PersistentVolumeClaim":
        if name not in map(name_of, ours):
            yield _clone(cluster, claim, name, who)
    elif source:
        yield Finding(
            "warn",
            f"{who} is made from {source.get('kind')} {name!r}, which is not checked here",
            "A volume populator for that kind must be installed.",
        )


def named_volume(cluster: Cluster, claim: Object, name: str) -> Finding:
    """Whether the volume that the claim names exists and is free."""
    who = f"claim {name_of(claim)!r}"
    try:
        volume = cluster.get("v1", "PersistentVolume", name)
    except ForbiddenError as error:
        return Finding("warn", f"{who}: volume {name!r} cannot be checked", str(error))
    if volume is None:
        return Finding(
            "fail",
            f"{who} cannot be bound: volume {name!r} does not exist",
            "Create the PersistentVolume, or name one of `kubectl get persistentvolumes` (chart "
            "value storage.volumeName).",
        )
    reserved = dig(volume, "spec", "claimRef") or {}
    if reserved and (reserved.get("name"), reserved.get("namespace")) != (
        name_of(claim),
        cluster.namespace,
    ):
        return Finding(
            "fail",
            f"{who} cannot be bound: volume {name!r} belongs to claim "
            f"{reserved.get('namespace')}/{reserved.get('name')}",
            "Name another volume. If that claim is gone, remove `spec.claimRef` of the volume.",
        )
    return _fitting(claim, volume, name, who)


def _fitting(claim: Object, volume: Object, name: str, who: str) -> Finding:
    wanted, has = dig(claim, "spec", "storageClassName"), dig(volume, "spec", "storageClassName")
    missing = set(dig(claim, "spec", "accessModes") or ()) - set(
        dig(volume, "spec", "accessModes") or ()
    )
    if wanted is not None and (wanted or "") != (has or ""):
        return Finding(
            "fail",
            f"{who} cannot be bound: its class is {wanted!r}, and that of volume {name!r} is "
            f"{has or ''!r}",
            "Set the same class (chart value storage.storageClassName; `-` stands for none).",
        )
    if missing:
        return Finding(
            "fail",
            f"{who} cannot be bound: volume {name!r} is not {', '.join(sorted(missing))}",
            "Request the access modes that the volume has (chart value storage.accessModes).",
        )
    return Finding("ok", f"{who}: volume {name!r} exists and fits")


def _snapshot(cluster: Cluster, claim: Object, name: str, who: str) -> Finding:
    if not cluster.knows(*_SNAPSHOT):
        return Finding(
            "fail",
            f"{who} is made from a VolumeSnapshot, which the cluster does not know",
            "Install the snapshot CRDs and controller of the CSI project, and a driver with "
            "snapshots (https://kubernetes-csi.github.io/docs/snapshot-controller.html).",
        )
    found = cluster.get(*_SNAPSHOT, name)
    if found is None:
        return Finding(
            "fail",
            f"{who} is made from snapshot {name!r}, which does not exist",
            f"Create it in namespace {cluster.namespace}, or name one of `kubectl get "
            "volumesnapshots` (chart value storage.dataSourceRef).",
        )
    if dig(found, "status", "readyToUse") is not True:
        why = dig(found, "status", "error", "message")
        return Finding(
            "warn",
            f"{who} is made from snapshot {name!r}, which is not ready{f': {why}' if why else ''}",
            f"Wait for it: kubectl --namespace {cluster.namespace} get volumesnapshot {name}",
        )
    size = dig(found, "status", "restoreSize")
    return _large_enough(claim, f"snapshot {name!r}", size, who)


def _clone(cluster: Cluster, claim: Object, name: str, who: str) -> Finding:
    found = cluster.get(*_CLAIM, name)
    if found is None:
        return Finding(
            "fail",
            f"{who} is a copy of claim {name!r}, which does not exist",
            f"Create it in namespace {cluster.namespace}, or name another one (chart value "
            "storage.dataSourceRef).",
        )
    size = dig(found, "status", "capacity", "storage")
    return _large_enough(claim, f"claim {name!r}", size, who)


def _large_enough(claim: Object, source: str, size: object, who: str) -> Finding:
    wanted = dig(claim, "spec", "resources", "requests", "storage")
    if size and quantity(wanted or 0) < quantity(size):
        return Finding(
            "fail",
            f"{who} requests {wanted}, and {source} needs {size}",
            "Raise the size to at least that of the source (chart value storage.size).",
        )
    return Finding("ok", f"{who} is made from {source}, which exists")
