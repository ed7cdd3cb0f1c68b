"""What our own objects ask of a cluster, read from the objects themselves; pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from deploy.objects import Object, dig, name_of, of_kind, title

INFERENCE_SERVICE = ("serving.kserve.io/v1beta1", "InferenceService")
DEPLOYMENT_MODE = "serving.kserve.io/deploymentMode"
MODEL_CONTAINER = "kserve-container"
QUEUE_PROXY = "queue-proxy"
# Knative and Standard were Serverless and RawDeployment before KServe 0.16.
_MODES = {
    "serverless": "Knative",
    "knative": "Knative",
    "rawdeployment": "Standard",
    "standard": "Standard",
}
_SUFFIXES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}


@dataclass(frozen=True)
class SecretUse:
    """A key of a Secret that a container reads."""

    secret: str
    key: str
    optional: bool
    user: str


def pod_specs(objects: Sequence[Object]) -> Iterator[tuple[Object, Object]]:
    """Each object that makes pods, with the pods' spec."""
    for item in objects:
        path = {
            "Job": ("spec", "template", "spec"),
            "Pod": ("spec",),
            "InferenceService": ("spec", "predictor"),
        }.get(item["kind"])
        if path:
            yield item, dig(item, *path) or {}


def containers(spec: Object) -> list[Object]:
    """The containers of a pod's spec, those of KServe's `model` form included."""
    model = [spec["model"]] if isinstance(spec.get("model"), dict) else []
    return [*(spec.get("initContainers") or ()), *(spec.get("containers") or ()), *model]


def deployment_mode(service: Object, default: str = "Knative") -> str:
    """`Knative` or `Standard`, by the annotation or else ``default``; the old names too."""
    asked = dig(service, "metadata", "annotations", DEPLOYMENT_MODE) or default
    return _MODES.get(str(asked).lower(), str(asked))


def model_name(service: Object) -> str:
    """The name in the request path: the predictor's ``--model_name``, else the service's own.

    A predictor of many models has no such flag: the first that it preloads stands for them.
    """
    for container in containers(dig(service, "spec", "predictor") or {}):
        arguments = [str(one) for one in container.get("args") or ()]
        for place, argument in enumerate(arguments):
            if argument.startswith("--model_name="):
                return argument.partition("=")[2]
            if argument == "--model_name" and place + 1 < len(arguments):
                return arguments[place + 1]
        for variable in container.get("env") or ():
            if variable.get("name") == "PREDICTOR_PRELOAD" and variable.get("value"):
                return str(variable["value"]).partition(",")[0].strip()
    return name_of(service)


def extended_resources(spec: Object) -> dict[str, int]:
    """What a pod asks of device plugins, as in ``{"nvidia.com/gpu": 1}``."""
    wanted: dict[str, int] = {}
    for container in containers(spec):
        limits = dig(container, "resources", "limits") or {}
        for name, count in limits.items():
            if "/" in name and quantity(count):
                wanted[name] = wanted.get(name, 0) + int(quantity(count))
    return wanted


def claims_used(objects: Sequence[Object]) -> dict[str, list[str]]:
    """The claims that pods mount, by volume or by KServe's `pvc://`, each with who uses it."""
    used: dict[str, list[str]] = {}
    for item, spec in pod_specs(objects):
        names = [
            dig(one, "persistentVolumeClaim", "claimName") for one in spec.get("volumes") or ()
        ]
        names += [
            match[1]
            for container in containers(spec)
            for one in [*(container.get("env") or ()), {"value": container.get("storageUri")}]
            if (match := re.match(r"pvc://([^/]+)", str(one.get("value") or "")))
        ]
        for name in dict.fromkeys(filter(None, names)):
            used.setdefault(name, []).append(title(item))
    return used


def secrets_used(objects: Sequence[Object]) -> list[SecretUse]:
    """The Secrets that containers read, mount or pull their image with."""
    return [use for item, spec in pod_specs(objects) for use in _secrets_of(spec, title(item))]


def _secrets_of(spec: Object, user: str) -> Iterator[SecretUse]:
    for container in containers(spec):
        for variable in container.get("env") or ():
            if reference := dig(variable, "valueFrom", "secretKeyRef"):
                optional = bool(reference.get("optional"))
                yield SecretUse(reference["name"], reference["key"], optional, user)
        for source in container.get("envFrom") or ():
            if reference := source.get("secretRef"):
                yield SecretUse(reference["name"], "", bool(reference.get("optional")), user)
    for volume in spec.get("volumes") or ():
        if reference := volume.get("secret"):
            yield SecretUse(reference["secretName"], "", bool(reference.get("optional")), user)
    for reference in spec.get("imagePullSecrets") or ():
        yield SecretUse(reference["name"], "", False, user)


def quantity(value: object) -> float:
    """A Kubernetes quantity (``500m``, ``16Gi``, ``2``) as a number; 0 where it is none.

    https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)(m|[kMGTPE]i?|Ki)?", str(value))
    if not match:
        return 0.0
    number, suffix = float(match[1]), match[2] or ""
    if suffix == "m":
        return number / 1000
    base = 1024 if suffix.endswith("i") else 1000
    return float(number * base ** _SUFFIXES[suffix[:1].lower()])


def requests_of(spec: Mapping[str, object]) -> dict[str, float]:
    """What one pod counts against a quota, by the quota's names (`requests.cpu`)."""
    total: dict[str, float] = {"pods": 1.0}
    for container in containers(dict(spec)):
        limits = dig(container, "resources", "limits") or {}
        requests = {**limits, **(dig(container, "resources", "requests") or {})}
        for section, wanted in (("requests", requests), ("limits", limits)):
            for name, value in wanted.items():
                key = f"{section}.{name}"
                total[key] = total.get(key, 0.0) + quantity(value)
    # A quota's plain `cpu` and `memory` are the requests.
    for name in ("cpu", "memory"):
        if f"requests.{name}" in total:
            total[name] = total[f"requests.{name}"]
    return total


def jobs(objects: Sequence[Object]) -> list[Object]:
    """The download Jobs."""
    return of_kind(objects, "Job")


def services(objects: Sequence[Object]) -> list[Object]:
    """The InferenceServices."""
    return of_kind(objects, "InferenceService")
