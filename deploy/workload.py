"""What our own objects need from a cluster, read from the objects; pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from kubernetes.utils import parse_quantity

from deploy.objects import Object, dig, name_of, of_kind, title

INFERENCE_SERVICE = ("serving.kserve.io/v1beta1", "InferenceService")
DEPLOYMENT_MODE = "serving.kserve.io/deploymentMode"
MODEL_CONTAINER = "kserve-container"
QUEUE_PROXY = "queue-proxy"
_PREFIXES = ("PREDICTOR_", "DOWNLOADER_")
# Knative and Standard were Serverless and RawDeployment before KServe 0.16.
_MODES = {
    "serverless": "Knative",
    "knative": "Knative",
    "rawdeployment": "Standard",
    "standard": "Standard",
}


@dataclass(frozen=True)
class SecretUse:
    """A key of a Secret that a container reads."""

    secret: str
    key: str
    optional: bool
    user: str


def pod_specs(objects: Sequence[Object]) -> Iterator[tuple[Object, Object]]:
    """Each object that creates pods, with the pods' spec."""
    for item in objects:
        path = {
            "Job": ("spec", "template", "spec"),
            "Pod": ("spec",),
            "InferenceService": ("spec", "predictor"),
        }.get(item["kind"])
        if path:
            yield item, dig(item, *path) or {}


def containers(spec: Object) -> list[Object]:
    """The containers of a pod's spec, including KServe's `model` form."""
    model = [spec["model"]] if isinstance(spec.get("model"), dict) else []
    return [*(spec.get("initContainers") or ()), *(spec.get("containers") or ()), *model]


def is_ours(item: Object) -> bool:
    """Whether its pods run our predictor or downloader, by the variables that our chart sets."""
    return any(
        str(variable.get("name")).startswith(_PREFIXES)
        for _, spec in pod_specs([item])
        for container in containers(spec)
        for variable in container.get("env") or ()
    )


def deployment_mode(service: Object, default: str = "Knative") -> str:
    """`Knative` or `Standard`, from the annotation or ``default``, which may use the old names."""
    asked = dig(service, "metadata", "annotations", DEPLOYMENT_MODE) or default
    return _MODES.get(str(asked).lower(), str(asked))


def model_name(service: Object) -> str:
    """The name in the request path: the predictor's ``--model_name``, else the service's own.

    A predictor of many models has no such flag: its first preloaded model is used.
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


def requires_key(service: Object) -> bool:
    """Whether the predictor has a key file, by its variable or its flag."""
    pattern = re.compile(r"--api[-_]keys[-_]file\b")
    return any(
        any(pattern.match(str(one)) for one in container.get("args") or ())
        or any(one.get("name") == "PREDICTOR_API_KEYS_FILE" for one in container.get("env") or ())
        for container in containers(dig(service, "spec", "predictor") or {})
    )


def extended_resources(spec: Object) -> dict[str, int]:
    """What a pod requests from device plugins, as in ``{"nvidia.com/gpu": 1}``."""
    wanted: dict[str, int] = {}
    for container in containers(spec):
        limits = dig(container, "resources", "limits") or {}
        for name, count in limits.items():
            if "/" in name and quantity(count):
                wanted[name] = wanted.get(name, 0) + int(quantity(count))
    return wanted


def claims_used(objects: Sequence[Object]) -> dict[str, list[str]]:
    """The claims that pods mount, by volume or by KServe's `pvc://`, each with its users."""
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
    """The Secrets that containers read, mount or use to pull their image."""
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
            for key in [one["key"] for one in reference.get("items") or ()] or [""]:
                optional = bool(reference.get("optional"))
                yield SecretUse(reference["secretName"], key, optional, user)
    for reference in spec.get("imagePullSecrets") or ():
        yield SecretUse(reference["name"], "", False, user)


def quantity(value: object) -> Decimal:
    """A Kubernetes quantity (``500m``, ``16Gi``, ``1E3``) as a number; 0 where it is not valid.

    https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    try:
        return Decimal(parse_quantity(value))
    except ValueError:
        return Decimal(0)


def total_of(spec: Object) -> dict[str, dict[str, Decimal]]:
    """The `requests` and `limits` of a whole pod; init containers run before all others."""
    totals: dict[str, dict[str, Decimal]] = {"requests": {}, "limits": {}}
    first = len(spec.get("initContainers") or ())
    each = [one.get("resources") or {} for one in containers(spec)]
    for section, total in totals.items():
        # A request that is not set is the limit.
        wanted = [{**(one.get("limits") or {}), **(one.get(section) or {})} for one in each]
        for name in dict.fromkeys(name for one in wanted for name in one):
            values = [quantity(one.get(name, 0)) for one in wanted]
            total[name] = max([sum(values[first:], Decimal(0)), *values[:first]])
    return totals


def requests_of(spec: Object) -> dict[str, Decimal]:
    """What one pod counts against a quota, by the quota's names (`requests.cpu`)."""
    total = {"pods": Decimal(1)}
    for section, wanted in total_of(spec).items():
        total |= {f"{section}.{name}": value for name, value in wanted.items()}
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
