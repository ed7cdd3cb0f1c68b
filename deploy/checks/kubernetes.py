"""Kubernetes: its version, and whether its API serves every kind in the folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from deploy.checks.finding import Finding
from deploy.cluster import Cluster
from deploy.explain import explain_refusal
from deploy.objects import Object, title
from deploy.workload import pod_specs, uses_image_volume

TITLE = "Kubernetes"
# The chart's minimum. An older API refuses fields of the Job or drops them silently.
OLDEST = (1, 29)
_IMAGES, _IMAGES_BY_DEFAULT = (1, 33), (1, 35)


def check(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """A kind without its CRD fails, KServe's own included."""
    yield _version(cluster)
    yield from _kinds(cluster, objects)
    yield from _image_volumes(cluster, objects)


def _number(version: str) -> tuple[int, int] | None:
    """Major and minor version of the API server's own, such as `v1.32.4-gke.100`."""
    match = re.match(r"v(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else None


def _version(cluster: Cluster) -> Finding:
    number = _number(cluster.version)
    if number is None:
        return Finding("warn", f"the version of Kubernetes is unknown: {cluster.version!r}")
    if number < OLDEST:
        return Finding(
            "fail",
            f"Kubernetes {cluster.version} is older than {'.'.join(map(str, OLDEST))}",
            "Update the cluster, or use another one: kubectl config get-contexts",
        )
    return Finding("ok", f"Kubernetes {cluster.version} runs")


def _image_volumes(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """Beta since 1.33, with `subPath`; on by default since 1.35 (KEP-4639)."""
    users = [title(item) for item, spec in pod_specs(objects) if uses_image_volume(spec)]
    number = _number(cluster.version)
    if not users or number is None or number >= _IMAGES_BY_DEFAULT:
        return
    who = ", ".join(dict.fromkeys(users))
    if number < _IMAGES:
        yield Finding(
            "fail",
            f"{who} mounts an image as a volume, which needs Kubernetes 1.33",
            "Update the cluster, or download the model to a claim (chart value model.source).",
        )
    else:
        yield Finding(
            "warn",
            f"{who} mounts an image as a volume, which Kubernetes {cluster.version} allows only "
            "with the feature gate ImageVolume",
            "Make sure that it is on for the API server and the kubelets, and that the nodes have "
            "containerd 2 or CRI-O 1.31. Without it the API server drops the volume or refuses "
            "the pod.",
        )


def _kinds(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    kinds = dict.fromkeys((item["apiVersion"], item["kind"]) for item in objects)
    unknown = [(version, kind) for version, kind in kinds if not cluster.knows(version, kind)]
    for version, kind in unknown:
        explanation = explain_refusal(f'no matches for kind "{kind}" in version "{version}"')
        assert explanation
        yield Finding("fail", explanation.reason, explanation.advice)
    if not unknown:
        yield Finding("ok", f"the cluster knows all {len(kinds)} kinds of objects")
