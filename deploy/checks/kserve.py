"""KServe: its version, and the deployment mode of our services."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from deploy.checks.finding import Finding
from deploy.cluster import Cluster
from deploy.objects import Object, dig, title
from deploy.workload import DEPLOYMENT_MODE, INFERENCE_SERVICE, deployment_mode, services

TITLE = "KServe"
NAMESPACE = "kserve"
_CONTROLLER = "kserve-controller-manager"
# The first version with the mode names Knative and Standard.
_OLDEST = (0, 16)


def check(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """No findings if KServe is absent: the Kubernetes check reports that."""
    if not services(objects) or not cluster.knows(*INFERENCE_SERVICE):
        return
    yield from _controller(cluster)
    default = default_mode(cluster)
    for service in services(objects):
        mode = deployment_mode(service, default)
        asked = dig(service, "metadata", "annotations", DEPLOYMENT_MODE)
        source = "from its annotation" if asked else "KServe's default"
        yield Finding("ok", f"{title(service)} runs in {mode} mode ({source})")
        yield from _mode_switch(cluster, service, mode)


def default_mode(cluster: Cluster) -> str:
    """The default mode of `inferenceservice-config` (key `deploy`), else Knative."""
    found = cluster.get("v1", "ConfigMap", "inferenceservice-config", NAMESPACE)
    try:
        deploy = json.loads(dig(found, "data", "deploy") or "{}")
    except (ValueError, RecursionError):
        deploy = {}
    return str(dig(deploy, "defaultDeploymentMode") or "Knative")


def _controller(cluster: Cluster) -> Iterator[Finding]:
    found = cluster.get("apps/v1", "Deployment", _CONTROLLER, NAMESPACE)
    if found is None:
        yield Finding(
            "warn",
            f"KServe's CRD is installed, but its controller is not in namespace {NAMESPACE!r}",
        )
        return
    image = str(dig(found, "spec", "template", "spec", "containers", 0, "image") or "")
    match = re.search(r":v?(\d+)\.(\d+)[\w.-]*", image)
    version = match[0].lstrip(":") if match else "of unknown version"
    if not dig(found, "status", "availableReplicas"):
        yield Finding(
            "fail",
            f"KServe {version} is installed, but its controller does not run",
            f"Inspect it: kubectl --namespace {NAMESPACE} describe deployment {_CONTROLLER}",
        )
    elif match and (int(match[1]), int(match[2])) < _OLDEST:
        yield Finding(
            "warn",
            f"KServe {version} is older than 0.16, which has other names for the deployment modes",
            f"Set the annotation {DEPLOYMENT_MODE} to Serverless or RawDeployment, or update it.",
        )
    else:
        yield Finding("ok", f"KServe {version} runs")


def _mode_switch(cluster: Cluster, service: Object, mode: str) -> Iterator[Finding]:
    existing = cluster.get(*INFERENCE_SERVICE, service["metadata"]["name"])
    running = dig(existing, "status", "deploymentMode")
    if running and deployment_mode({}, str(running)) != mode:
        yield Finding(
            "fail",
            f"{title(service)} runs in {running} mode, and KServe cannot change it to {mode}",
            f"Delete it first: kubectl --namespace {cluster.namespace} delete isvc "
            f"{service['metadata']['name']}",
        )
