"""KServe's webhooks for InferenceServices: defaults and validation.

Source: kserve/kserve 0.20, pkg/apis/serving/v1beta1, `inference_service_defaults.go`,
`predictor_custom.go`, `inference_service_validation.go`, `component.go`; and the CRD's defaults.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

from .quantities import canonical

Object = dict[str, Any]
CONTAINER = "kserve-container"
DEPLOYMENT_MODE = "serving.kserve.io/deploymentMode"
AUTOSCALER_CLASS = "serving.kserve.io/autoscalerClass"
AUTOSCALER_CLASSES = {"hpa", "keda", "external", "none"}
BLOCKED_VARIABLES = {"PYTHONPATH"}
DEFAULTS = {
    ("limits", "cpu"): "cpuLimit",
    ("limits", "memory"): "memoryLimit",
    ("requests", "cpu"): "cpuRequest",
    ("requests", "memory"): "memoryRequest",
}


def stored(service: Object, config: Object) -> Object:
    """The object that the cluster stores for an applied one."""
    result = copy.deepcopy(service)
    predictor = result["spec"]["predictor"]
    default_mode = config["deploy"]["defaultDeploymentMode"]
    if default_mode == "Standard":
        result["metadata"].setdefault("annotations", {}).setdefault(DEPLOYMENT_MODE, default_mode)
    if not config["security"]["autoMountServiceAccountToken"]:
        predictor.setdefault("automountServiceAccountToken", False)
    (container,) = predictor["containers"]
    container["name"] = CONTAINER
    _fill_resources(container, config["inferenceService"]["resource"])
    _write_as_go_does(predictor)
    for port in container.get("ports", []):
        port.setdefault("protocol", "TCP")
    return result


def refusals(service: Object) -> Iterator[str]:
    """The errors of the validating webhook and of the CRD's keyed lists for a stored object."""
    name, predictor = service["metadata"]["name"], service["spec"]["predictor"]
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"the name {name!r} is invalid"
    if predictor["minReplicas"] > predictor["maxReplicas"]:
        yield "'MinReplicas' cannot be greater than MaxReplicas"
    if predictor.get("containerConcurrency", 0) < 0:
        yield "parallelism cannot be less than 0"
    for container in predictor["containers"]:
        variables = [item["name"] for item in container.get("env", [])]
        yield from (f"{one} is not allowed" for one in BLOCKED_VARIABLES & set(variables))
        yield from (f"env: Duplicate value: {one}" for one in repeated(variables))
    yield from _autoscaling_refusals(service)


def repeated(names: list[str]) -> list[str]:
    """The names that occur more than once."""
    return sorted({name for name in names if names.count(name) > 1})


def _fill_resources(container: Object, defaults: Object) -> None:
    resources = container.setdefault("resources", {})
    for (section, name), key in DEFAULTS.items():
        if defaults.get(key):
            resources.setdefault(section, {}).setdefault(name, defaults[key])


def _write_as_go_does(predictor: Object) -> None:
    """Normalise quantities: the webhook parses the object into Go types and serialises it again."""
    for container in predictor["containers"]:
        for section in ("limits", "requests"):
            _replace(container["resources"].get(section, {}), canonical)
    for volume in predictor.get("volumes", []):
        if "sizeLimit" in volume.get("emptyDir", {}):
            volume["emptyDir"]["sizeLimit"] = canonical(volume["emptyDir"]["sizeLimit"])


def _replace(mapping: Object, change: Callable[[Any], Any]) -> None:
    mapping.update({key: change(value) for key, value in mapping.items()})


def _autoscaling_refusals(service: Object) -> Iterator[str]:
    annotations = service["metadata"].get("annotations", {})
    metric = service["spec"]["predictor"].get("scaleMetric")
    autoscaler = annotations.get(AUTOSCALER_CLASS)
    if autoscaler and autoscaler not in AUTOSCALER_CLASSES:
        yield f"[{autoscaler}] is not a supported autoscaler class type"
    if annotations.get(DEPLOYMENT_MODE) == "Standard":
        if autoscaler == "hpa" and metric not in (None, "cpu", "memory"):
            yield f"[{metric}] is not a supported metric"
    elif metric not in (None, "concurrency", "rps"):
        yield f"[{metric}] is not a supported metric"
