"""What our own objects need from a cluster, read from the objects; pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal

from kubernetes.utils import parse_quantity

from deploy.objects import Object, dig, name_of, of_kind, title

INFERENCE_SERVICE = ("serving.kserve.io/v1beta1", "InferenceService")
DEPLOYMENT_MODE = "serving.kserve.io/deploymentMode"
MODEL_CONTAINER = "kserve-container"
QUEUE_PROXY = "queue-proxy"
_PREFIXES = ("PREDICTOR_", "DOWNLOADER_")
# What runs the jobs program and its Valkey.
_ROLLOUTS = ("Deployment", "StatefulSet")
# Knative and Standard were Serverless and RawDeployment before KServe 0.16.
_MODES = {
    "serverless": "Knative",
    "knative": "Knative",
    "rawdeployment": "Standard",
    "standard": "Standard",
}


def pod_specs(objects: Sequence[Object]) -> Iterator[tuple[Object, Object]]:
    """Each object that creates pods, with the pods' spec; a service once more for each canary."""
    for item in objects:
        path = {
            **dict.fromkeys(("Job", *_ROLLOUTS), ("spec", "template", "spec")),
            "Pod": ("spec",),
            "InferenceService": ("spec", "predictor"),
        }.get(item["kind"])
        if path:
            spec = dig(item, *path) or {}
            yield item, spec
            # A canary inherits what it does not set (kserve/kserve#5672).
            for canary in canaries(item):
                yield item, {**spec, **(canary.get("predictor") or {})}


def canaries(item: Object) -> list[Object]:
    """The canaries of a service in Standard mode."""
    return list(dig(item, "spec", "canary") or ()) if item["kind"] == "InferenceService" else []


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


def storage_uris(spec: Object) -> list[str]:
    """The URIs from which KServe mounts or downloads a model, such as `pvc://claim/`."""
    values = [
        str(one.get("value") or "")
        for container in containers(spec)
        for one in [*(container.get("env") or ()), {"value": container.get("storageUri")}]
    ]
    return [value for value in values if re.match(r"[a-z0-9+]+://", value)]


def uses_image_volume(spec: Object) -> bool:
    """Whether the pod mounts an OCI image as a volume, by itself or by KServe's webhook."""
    return any("image" in one for one in spec.get("volumes") or ()) or any(
        uri.startswith("oci+native://") for uri in storage_uris(spec)
    )


def claims_of(spec: Object) -> list[str]:
    """The claims that a pod mounts, by volume or by KServe's `pvc://`."""
    names = [dig(one, "persistentVolumeClaim", "claimName") for one in spec.get("volumes") or ()]
    names += [found[1] for uri in storage_uris(spec) if (found := re.match(r"pvc://([^/]+)", uri))]
    return list(dict.fromkeys(filter(None, names)))


def claims_made(objects: Sequence[Object]) -> list[Object]:
    """Our claims, with those that the controller of a StatefulSet makes for its first pod."""
    templates = [
        (item, claim)
        for item in of_kind(objects, "StatefulSet")
        for claim in dig(item, "spec", "volumeClaimTemplates") or ()
    ]
    made = [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": f"{name_of(claim)}-{name_of(item)}-0"},
            "spec": claim["spec"],
        }
        for item, claim in templates
    ]
    return [*of_kind(objects, "PersistentVolumeClaim"), *made]


def claims_used(objects: Sequence[Object]) -> dict[str, list[str]]:
    """The claims that pods mount, each with its users."""
    used: dict[str, list[str]] = {}
    for item, spec in pod_specs(objects):
        for name in claims_of(spec):
            users = used.setdefault(name, [])
            users += [] if title(item) in users else [title(item)]
    return used


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


def rollouts(objects: Sequence[Object]) -> list[Object]:
    """The Deployments and StatefulSets."""
    return [item for item in objects if item["kind"] in _ROLLOUTS]
