"""Storage: each claim has a class that supports the access mode it requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.checks.finding import Finding
from deploy.checks.volumes import named_volume, source_findings
from deploy.cluster import Cluster
from deploy.objects import Object, dig, name_of
from deploy.workload import claims_made, claims_of, claims_used, pod_specs, quantity

TITLE = "storage"
_MANY = {"ReadWriteMany", "ReadOnlyMany"}
_HOST = "kubernetes.io/hostname"
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
# Block devices, for one node at a time (the drivers' own documentation).
_BY_HAND = "kubernetes.io/no-provisioner"
_ONE_NODE = (
    "ebs.csi.aws.com",
    "kubernetes.io/aws-ebs",
    "pd.csi.storage.gke.io",
    "kubernetes.io/gce-pd",
    "disk.csi.azure.com",
    "kubernetes.io/azure-disk",
    "rancher.io/local-path",
    "k8s.io/minikube-hostpath",
    "csi.hetzner.cloud",
    "dobs.csi.digitalocean.com",
    "cinder.csi.openstack.org",
)
# File storage, for many nodes at a time. A name may have a prefix, as with Rook.
_MANY_NODES = (
    "efs.csi.aws.com",
    "fsx.csi.aws.com",
    "filestore.csi.storage.gke.io",
    "file.csi.azure.com",
    "kubernetes.io/azure-file",
    "cephfs.csi.ceph.com",
    "nfs.csi.k8s.io",
    "nfs-subdir-external-provisioner",
    "smb.csi.k8s.io",
    "driver.longhorn.io",
    "csi.juicefs.com",
    "beegfs.csi.netapp.com",
    "weka.io",
    "csi.vast",
    "lustre.csi",
)


def check(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """Our own claims must have a suitable class; other claims that our pods mount must exist."""
    ours = claims_made(objects)
    for claim in ours:
        existing = cluster.get("v1", "PersistentVolumeClaim", name_of(claim))
        if _is_bound(existing):
            yield _existing(claim, existing)
        else:
            yield _new(cluster, claim)
            yield from source_findings(cluster, claim, ours)
    for name in sorted(claims_used(objects).keys() - {name_of(claim) for claim in ours}):
        existing = cluster.get("v1", "PersistentVolumeClaim", name)
        if existing is None:
            yield Finding(
                "fail",
                f"claim {name!r}, which our pods mount, does not exist",
                f"Create it in namespace {cluster.namespace}, or let the chart create it "
                "(storage.existingClaim empty).",
            )
        else:
            yield Finding("ok", f"claim {name!r} exists ({dig(existing, 'status', 'phase')})")
    yield from _shared(cluster, objects)


def _is_bound(claim: Object | None) -> bool:
    return bool(dig(claim, "status", "phase") == "Bound")


def _existing(claim: Object, existing: Object | None) -> Finding:
    wanted = set(dig(claim, "spec", "accessModes") or ())
    has = set(dig(existing, "status", "accessModes") or dig(existing, "spec", "accessModes") or ())
    if wanted <= has:
        return Finding("ok", f"claim {name_of(claim)!r} is bound, {', '.join(sorted(has))}")
    return Finding(
        "fail",
        f"claim {name_of(claim)!r} is bound as {', '.join(sorted(has))} and cannot be changed "
        f"to {', '.join(sorted(wanted))}",
        "Request the mode that it has, or delete the claim and download the weights again.",
    )


def _shared(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """Claims of one node, or of one pod, that several predictors mount."""
    ours = {name_of(one): one for one in claims_made(objects)}
    for name in claims_used(objects):
        claim = cluster.get("v1", "PersistentVolumeClaim", name) or ours.get(name)
        modes = dig(claim, "status", "accessModes") or dig(claim, "spec", "accessModes") or ()
        users = [
            (item, spec)
            for item, spec in pod_specs(objects)
            if item["kind"] == "InferenceService" and name in claims_of(spec)
        ]
        if modes and not set(modes) & _MANY and (several := _more_than_one(users)):
            yield _crowded(name, modes, several, [spec for _, spec in users])


def _more_than_one(users: Sequence[tuple[Object, Object]]) -> str:
    """How many predictors may mount a claim at a time; empty for one."""
    most = [int(quantity(spec.get("maxReplicas") or 0)) for _, spec in users]
    if not users or (sum(most) == 1 and all(most)):
        return ""
    return f"up to {sum(most)}" if all(most) else "any number of"


def _crowded(name: str, modes: Sequence[str], several: str, specs: Sequence[Object]) -> Finding:
    what = f"claim {name!r} is {', '.join(modes)}, and {several} predictors mount it"
    if "ReadWriteOnce" not in modes:
        return Finding(
            "fail",
            f"{what}, but only one pod can",
            "Use ReadWriteMany (chart value storage.accessModes), or one pod "
            "(predictor.scaling.maxReplicas).",
        )
    hosts = {dig(spec, "nodeSelector", _HOST) for spec in specs}
    if len(hosts) == 1 and None not in hosts:
        return Finding("ok", f"{what}, all on node {hosts.pop()}")
    return Finding(
        "warn",
        f"{what}: those on another node than the volume stay pending",
        "Use ReadWriteMany (chart value storage.accessModes), a read-only copy for many nodes "
        f"(storage.dataSourceRef), or select one node by the label {_HOST}.",
    )


def _new(cluster: Cluster, claim: Object) -> Finding:
    name, wanted = name_of(claim), dig(claim, "spec", "accessModes") or []
    asked = dig(claim, "spec", "storageClassName")
    classes = cluster.list("storage.k8s.io/v1", "StorageClass")
    if volume := dig(claim, "spec", "volumeName"):
        return named_volume(cluster, claim, str(volume))
    if asked == "":
        return Finding(
            "warn", f"claim {name!r} needs a volume that you create by hand (its class is empty)"
        )
    storage_class = _class_of(classes, asked)
    if storage_class is None:
        what = (
            f"storage class {asked!r} does not exist"
            if asked
            else "there is no default storage class"
        )
        known = ", ".join(name_of(one) for one in classes) or "none"
        return Finding(
            "fail",
            f"claim {name!r} cannot be bound: {what}",
            "Name one in storageClassName (chart values storage.storageClassName, "
            "jobs.storage.storageClassName). "
            f"Available: {known}",
        )
    return _capable(claim, storage_class, classes, "ReadWriteMany" in wanted)


def _class_of(classes: Sequence[Object], name: str | None) -> Object | None:
    if name:
        return next((one for one in classes if name_of(one) == name), None)
    default = [
        one for one in classes if dig(one, "metadata", "annotations", _DEFAULT_CLASS) == "true"
    ]
    return default[0] if default else None


def _capable(
    claim: Object, storage_class: Object, classes: Sequence[Object], many: bool
) -> Finding:
    name, provisioner = name_of(storage_class), str(storage_class.get("provisioner"))
    what = f"claim {name_of(claim)!r}: storage class {name!r} ({provisioner})"
    if not many:
        is_copy = "ReadOnlyMany" in (dig(claim, "spec", "accessModes") or ())
        who = "many nodes to read" if is_copy else "one node at a time"
        return Finding("ok", f"{what} provides a volume for {who}")
    if provisioner == _BY_HAND:
        return Finding(
            "warn",
            f"{what} uses volumes that you create by hand; one of them must support ReadWriteMany",
            "Check with: kubectl get persistentvolumes",
        )
    if _is_one_of(provisioner, _MANY_NODES):
        return Finding("ok", f"{what} supports ReadWriteMany")
    if not _is_one_of(provisioner, _ONE_NODE):
        return Finding(
            "warn",
            f"{what} is not a driver that we know; it must support ReadWriteMany",
            "If it does not, the claim stays Pending. See the driver's documentation.",
        )
    able = [name_of(one) for one in classes if _is_one_of(str(one.get("provisioner")), _MANY_NODES)]
    choice = f"Name {' or '.join(able)}" if able else "Install a file storage class"
    return Finding(
        "fail",
        f"{what} does not support ReadWriteMany",
        f"{choice} (chart value storage.storageClassName), or request ReadWriteOnce and run "
        "all pods on one node.",
    )


def _is_one_of(provisioner: str, names: Sequence[str]) -> bool:
    return any(name in provisioner for name in names)
