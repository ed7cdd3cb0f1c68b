"""Nodes: one of them has the GPU, or other device plugin resource, that our pods request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from deploy.checks.finding import Finding
from deploy.cluster import Cluster
from deploy.objects import Object, dig, name_of, title
from deploy.workload import extended_resources, is_ours, pod_specs, quantity

TITLE = "nodes"


def check(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """A missing GPU only warns: a cluster autoscaler may add a node once a pod waits."""
    wanting = [
        (item, spec, wanted)
        for item, spec in pod_specs(objects)
        if (wanted := extended_resources(spec))
    ]
    if not wanting:
        yield Finding("ok", "our pods request no GPU")
        return
    yield from dict.fromkeys(_several_gpus(wanting))
    nodes = cluster.list("v1", "Node")
    # A canary often needs the same as its service.
    yield from dict.fromkeys(
        _for_pod(title(item), spec, wanted, nodes) for item, spec, wanted in wanting
    )


def _several_gpus(wanting: Sequence[tuple[Object, Object, Mapping[str, int]]]) -> Iterator[Finding]:
    """Our predictor computes on one GPU; what another image does is unknown."""
    for item, spec, wanted in wanting:
        gpus = {name: count for name, count in wanted.items() if re.search(r"gpu|/mig-", name)}
        listed = ", ".join(f"{count} {name}" for name, count in gpus.items())
        if item["kind"] != "InferenceService" or not is_ours(item):
            continue
        if sum(gpus.values()) > 1:
            yield Finding(
                "warn",
                f"{title(item)} requests {listed} per pod, and the predictor uses one GPU",
                "Request one (chart value predictor.resources.limits), and raise "
                "predictor.scaling.maxReplicas for more pictures at a time.",
            )
        elif gpus and spec.get("resourceClaims"):
            yield Finding(
                "warn",
                f"{title(item)} requests {listed} in addition to its resourceClaims",
                "If a claim is for a GPU, remove the limit (chart value "
                "predictor.resources.limits): the predictor uses one GPU.",
            )


def _for_pod(who: str, spec: Object, wanted: Mapping[str, int], nodes: Sequence[Object]) -> Finding:
    resources = ", ".join(f"{count} {name}" for name, count in wanted.items())
    having = [
        node
        for node in nodes
        if all(
            quantity(dig(node, "status", "allocatable", name) or 0) >= count
            for name, count in wanted.items()
        )
    ]
    if not having:
        return Finding(
            "warn",
            f"no node has {resources}, which {who} requests",
            "Add a GPU node and its device plugin (https://github.com/NVIDIA/k8s-device-plugin). "
            "If a cluster autoscaler starts GPU nodes, there is nothing to do.",
        )
    selected = [node for node in having if _matches(node, spec.get("nodeSelector") or {})]
    if not selected:
        return Finding(
            "warn",
            f"nodes with {resources} do not have the labels of {who}'s nodeSelector",
            "Compare it with `kubectl get nodes --show-labels`.",
        )
    open_nodes = [node for node in selected if not _untolerated(node, spec)]
    if not open_nodes:
        taints = sorted({taint for node in selected for taint in _untolerated(node, spec)})
        return Finding(
            "warn",
            f"every node with {resources} is tainted {', '.join(taints)}, "
            f"which {who} does not tolerate",
            "Add a toleration (chart value predictor.tolerations; on Knative it needs the flag "
            "kubernetes.podspec-tolerations). Clusters with the ExtendedResourceToleration plugin, "
            "such as GKE's, add one themselves for a taint that is named like the resource.",
        )
    return Finding("ok", f"{', '.join(map(name_of, open_nodes))} can give {who} its {resources}")


def _matches(node: Object, selector: Mapping[str, str]) -> bool:
    labels = dig(node, "metadata", "labels") or {}
    return all(labels.get(name) == value for name, value in selector.items())


def _untolerated(node: Object, spec: Object) -> list[str]:
    tolerations = spec.get("tolerations") or ()
    return [
        f"{taint['key']}={taint.get('value', '')}:{taint['effect']}"
        for taint in dig(node, "spec", "taints") or ()
        if taint.get("effect") != "PreferNoSchedule"
        and not any(_tolerates(one, taint) for one in tolerations)
    ]


def _tolerates(toleration: Object, taint: Object) -> bool:
    """As in https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/."""
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    same_value = (toleration.get("value") or "") == (taint.get("value") or "")
    return toleration.get("key") == taint["key"] and same_value
