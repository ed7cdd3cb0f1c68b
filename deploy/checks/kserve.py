"""KServe: its version, and the deployment mode of our services."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from deploy.checks.finding import Finding
from deploy.cluster import Cluster
from deploy.objects import Object, dig, of_kind, title
from deploy.workload import (
    DEPLOYMENT_MODE,
    INFERENCE_SERVICE,
    canaries,
    deployment_mode,
    pod_specs,
    services,
    storage_uris,
)

TITLE = "KServe"
NAMESPACE = "kserve"
_CONTROLLER = "kserve-controller-manager"
# The first version with the mode names Knative and Standard.
_OLDEST = (0, 16)
# The first version with `oci+native://` and with canaries in Standard mode.
_IMAGES_AND_CANARIES = (0, 20)


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
    yield from _features(cluster, objects, default)


def default_mode(cluster: Cluster) -> str:
    """The default mode of `inferenceservice-config` (key `deploy`), else Knative."""
    return str(dig(_config(cluster, "deploy"), "defaultDeploymentMode") or "Knative")


def _config(cluster: Cluster, key: str) -> Object | None:
    """A key of `inferenceservice-config`; None if it does not exist or is not valid JSON."""
    found = cluster.get("v1", "ConfigMap", "inferenceservice-config", NAMESPACE)
    try:
        parsed = json.loads(dig(found, "data", key) or "null")
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _controller(cluster: Cluster) -> Iterator[Finding]:
    found = cluster.get("apps/v1", "Deployment", _CONTROLLER, NAMESPACE)
    if found is None:
        yield Finding(
            "warn",
            f"KServe's CRD is installed, but its controller is not in namespace {NAMESPACE!r}",
        )
        return
    match = _version(found)
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


def _version(controller: Object | None) -> re.Match[str] | None:
    """The tag of the controller's image, with the major and minor version."""
    image = str(dig(controller, "spec", "template", "spec", "containers", 0, "image") or "")
    return re.search(r":v?(\d+)\.(\d+)[\w.-]*", image)


def _features(cluster: Cluster, objects: Sequence[Object], default: str) -> Iterator[Finding]:
    """What newer versions of KServe or its configuration have to support."""
    match = _version(cluster.get("apps/v1", "Deployment", _CONTROLLER, NAMESPACE))
    is_old = bool(match and (int(match[1]), int(match[2])) < _IMAGES_AND_CANARIES)
    routes = [one for one in of_kind(objects, "HTTPRoute") if not _leads_to_jobs(one)]
    # A route of our own divides the requests itself.
    ingress = {"enableGatewayApi": True}
    if not routes:
        ingress = _config(cluster, "ingress") or {}
    for service in services(objects):
        yield from _canary(service, deployment_mode(service, default), is_old, ingress)
    users = {
        title(item): uri
        for item, spec in pod_specs(objects)
        for uri in storage_uris(spec)
        if re.match(r"oci(\+\w+)?://", uri)
    }
    if users:
        yield from _images(cluster, users, is_old)


def _leads_to_jobs(route: Object) -> bool:
    return bool(dig(route, "metadata", "labels", "app.kubernetes.io/component") == "jobs")


def _canary(service: Object, mode: str, is_old: bool, ingress: Object) -> Iterator[Finding]:
    ignored = dig(service, "spec", "predictor", "canaryTrafficPercent") is not None
    if mode == "Standard" and ignored:
        yield Finding(
            "fail",
            f"{title(service)}: KServe ignores canaryTrafficPercent in Standard mode",
            "Use `spec.canary` (chart value predictor.canary), or Knative mode.",
        )
    if not canaries(service):
        return
    if mode == "Knative":
        yield Finding(
            "fail",
            f"{title(service)}: KServe refuses `spec.canary` in Knative mode",
            "Use `canaryTrafficPercent` of the predictor, or Standard mode.",
        )
    elif is_old:
        yield Finding(
            "fail",
            f"{title(service)} has a canary in Standard mode, which needs KServe 0.20",
            "Update KServe, or use Knative mode.",
        )
    elif not ingress.get("enableGatewayApi") and any(
        one.get("trafficPercent") for one in canaries(service)
    ):
        yield Finding(
            "warn",
            f"{title(service)}: KServe divides requests with a canary only by the Gateway API, "
            "and `enableGatewayApi` is off",
            "Set it in the key `ingress` of inferenceservice-config, or divide the requests by a "
            "route of your own (chart value predictor.route).",
        )


def _images(cluster: Cluster, users: Mapping[str, str], is_old: bool) -> Iterator[Finding]:
    """Models in OCI images; any scheme needs one of KServe's two switches."""
    config = _config(cluster, "storageInitializer")
    for user, uri in users.items():
        if is_old and not uri.startswith("oci://"):
            yield Finding(
                "fail",
                f"{user} reads {uri}, and its scheme needs KServe 0.20",
                "Update KServe, mount the image as a volume (chart value storage.mount=volume), "
                "or download the model to a claim.",
            )
        elif config and not (config.get("enableOciModelSupport") or config.get("enableModelcar")):
            yield Finding(
                "warn",
                f"{user} reads {uri}, and KServe's support for models in images is off",
                "Set `enableOciModelSupport` to true in the key `storageInitializer` of "
                "inferenceservice-config, or mount the image as a volume (chart value "
                "storage.mount=volume).",
            )


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
