"""KServe's controller and its webhook for pods: from a stored InferenceService to a pod.

Source: kserve/kserve 0.20, `reconcilers/knative/ksvc_reconciler.go`, `reconcilers/deployment/`,
`pkg/webhook/admission/pod/storage_initializer_injector.go`.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from .kserve_webhook import CONTAINER

Object = dict[str, Any]
# Fields of a predictor that are not fields of a pod.
EXTENSIONS = {
    "minReplicas",
    "maxReplicas",
    "name",
    "canaryTrafficPercent",
    "scaleMetric",
    "scaleTarget",
    "timeout",
    "containerConcurrency",
    "deploymentStrategy",
    "autoScaling",
}


_IMAGE = "oci+native://"


def versions(service: Object) -> list[Object]:
    """The service and each of its canaries; a canary inherits the fields that it does not set."""
    predictor = service["spec"]["predictor"]
    canaries = [one["predictor"] for one in service["spec"].get("canary", [])]
    return [service] + [{**service, "spec": {"predictor": predictor | one}} for one in canaries]


def revision_template(service: Object) -> Object:
    """The template of the Knative Service, in Knative mode."""
    predictor = service["spec"]["predictor"]
    annotations = service["metadata"].get("annotations", {}) | {
        "autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev",
        "autoscaling.knative.dev/min-scale": str(predictor["minReplicas"]),
        "autoscaling.knative.dev/max-scale": str(predictor["maxReplicas"]),
    }
    if "scaleMetric" in predictor:
        annotations["autoscaling.knative.dev/metric"] = predictor["scaleMetric"]
    if "scaleTarget" in predictor:
        annotations["autoscaling.knative.dev/target"] = str(predictor["scaleTarget"])
    # Both come from one field, so a response may start as late as it may end.
    timeouts = dict.fromkeys(
        ("timeoutSeconds", "responseStartTimeoutSeconds"), predictor["timeout"]
    )
    concurrency = {"containerConcurrency": predictor["containerConcurrency"]}
    return {
        "metadata": {"annotations": annotations},
        "spec": _pod_fields(service) | timeouts | concurrency,
    }


def deployment_pod(service: Object) -> Object:
    """The pod of the Deployment, in Standard mode."""
    pod = {"terminationGracePeriodSeconds": 30, **_pod_fields(service)}
    for container in pod["containers"]:
        port = container["ports"][0]["containerPort"]
        container.setdefault("readinessProbe", {"tcpSocket": {"port": port}})
    return pod


def mount_storage(pod: Object) -> Object:
    """The pod after the webhook mounts the claim or the image of STORAGE_URI."""
    result = copy.deepcopy(pod)
    for container in result["containers"]:
        if container["name"] != CONTAINER:
            continue
        for variable in container["env"]:
            uri = re.fullmatch(r"pvc://([^/]+)/?(.*)", variable.get("value", ""))
            if variable["name"] == "STORAGE_URI" and uri:
                variable["value"] = "/mnt/models"
                _mount(result, container, claim=uri[1], folder=uri[2])
            if variable["name"] == "STORAGE_URI" and variable["value"].startswith(_IMAGE):
                _mount_image(result, container, variable["value"].removeprefix(_IMAGE))
    return result


def _pod_fields(service: Object) -> Object:
    predictor = copy.deepcopy(service["spec"]["predictor"])
    return {key: value for key, value in predictor.items() if key not in EXTENSIONS}


def _mount(pod: Object, container: Object, claim: str, folder: str) -> None:
    name = "kserve-pvc-source"
    mount = {"name": name, "mountPath": "/mnt/models", "readOnly": True}
    container["volumeMounts"].append(mount | ({"subPath": folder} if folder else {}))
    source = {"claimName": claim, "readOnly": False}
    pod["volumes"].append({"name": name, "persistentVolumeClaim": source})


def _mount_image(pod: Object, container: Object, reference: str) -> None:
    name = "mnt-models"
    mount = {"name": name, "mountPath": "/mnt/models", "subPath": "models", "readOnly": True}
    container["volumeMounts"].append(mount)
    pod["volumes"].append({"name": name, "image": {"reference": reference}})
