"""Knative: whether it is installed, and whether its feature flags admit our objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.checks.finding import Finding
from deploy.checks.kserve import default_mode
from deploy.cluster import Cluster
from deploy.explain.refusal import (
    EMPTY_DIR_FLAG,
    FIELD_REF_FLAG,
    FLAG_OF_FIELD,
    FLAG_OF_VOLUME,
    PVC_FLAG,
    PVC_WRITE_FLAG,
    feature_patch,
)
from deploy.objects import Object, dig, title
from deploy.workload import INFERENCE_SERVICE, containers, deployment_mode, quantity, services

TITLE = "Knative"
NAMESPACE = "knative-serving"
# The flags that a stock Knative enables, of those that we need.
_ON_BY_DEFAULT = {EMPTY_DIR_FLAG}
# For these `allowed` is not enough (knative/serving, pkg/apis/serving/k8s_validation.go).
_MUST_BE_ENABLED = {
    PVC_FLAG,
    PVC_WRITE_FLAG,
    EMPTY_DIR_FLAG,
    FLAG_OF_FIELD["initContainers"],
    *FLAG_OF_VOLUME.values(),
}
_CAPABILITIES_FLAG = "kubernetes.containerspec-addcapabilities"
_PROPAGATION_FLAG = "kubernetes.podspec-volumes-mount-propagation"
_PLAIN_VOLUMES = {"configMap", "emptyDir", "name", "persistentVolumeClaim", "projected", "secret"}
# Bounds of the ConfigMap config-defaults: the field that each limits, and the stock value.
_BOUNDS = {
    "timeout": ("max-revision-timeout-seconds", 600, "predictor.timeoutSeconds"),
    "containerConcurrency": ("container-concurrency-max-limit", 1000, "predictor.concurrency"),
}


def check(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """No findings if none of our services runs in Knative mode."""
    if not cluster.knows(*INFERENCE_SERVICE):
        return
    default = default_mode(cluster)
    ours = [one for one in services(objects) if deployment_mode(one, default) == "Knative"]
    if not ours:
        return
    if not cluster.knows("serving.knative.dev/v1", "Service"):
        yield Finding(
            "fail",
            "our service asks for Knative mode, but Knative Serving is not installed",
            "Install it, or deploy in Standard mode "
            "(chart value predictor.deploymentMode=Standard).",
        )
        return
    defaults = cluster.get("v1", "ConfigMap", "config-defaults", NAMESPACE)
    for service in ours:
        yield from _bounds(service, dig(defaults, "data") or {})
        yield from _never_accepted(service)
    features = cluster.get("v1", "ConfigMap", "config-features", NAMESPACE)
    off = {
        flag: why
        for service in ours
        for flag, why in flags_needed(service).items()
        if not _is_on(flag, dig(features, "data") or {})
    }
    if not off:
        yield Finding("ok", "Knative is installed, and its feature flags admit our objects")
        return
    needed = ", ".join(f"{flag} (for {why})" for flag, why in sorted(off.items()))
    yield Finding(
        "fail",
        f"Knative will refuse our service, which needs {needed}",
        f"An administrator can enable it: {feature_patch(off)}",
    )


def flags_needed(service: Object) -> dict[str, str]:
    """The feature flags that a service's predictor needs, each with the field that requires it."""
    spec = dig(service, "spec", "predictor") or {}
    needed = {flag: field for field, flag in FLAG_OF_FIELD.items() if spec.get(field)}
    for volume in spec.get("volumes") or ():
        if claim := volume.get("persistentVolumeClaim"):
            needed[PVC_FLAG] = f"the claim {claim.get('claimName')}"
            if not claim.get("readOnly"):
                needed[PVC_WRITE_FLAG] = "a claim that is not readOnly"
        for kind, flag in {"emptyDir": EMPTY_DIR_FLAG, **FLAG_OF_VOLUME}.items():
            if kind in volume:
                needed[flag] = f"the volume {volume.get('name')}"
    for container in containers(spec):
        if added := dig(container, "securityContext", "capabilities", "add"):
            needed[_CAPABILITIES_FLAG] = f"the capabilities {', '.join(added)}"
        if any(one.get("mountPropagation") for one in container.get("volumeMounts") or ()):
            needed[_PROPAGATION_FLAG] = "mountPropagation"
        for variable in container.get("env") or ():
            if {"fieldRef", "resourceFieldRef"} & (variable.get("valueFrom") or {}).keys():
                needed[FIELD_REF_FLAG] = f"the variable {variable['name']}"
    return needed


def _bounds(service: Object, data: dict[str, str]) -> Iterator[Finding]:
    """What exceeds a bound that an administrator can raise."""
    for field, (key, stock, value) in _BOUNDS.items():
        has, most = dig(service, "spec", "predictor", field), data.get(key) or stock
        if has is not None and quantity(has) > quantity(most):
            yield Finding(
                "fail",
                f"{title(service)}: Knative refuses {field} {has}, because {key} is {most}",
                f"Lower it (chart value {value}), or have an administrator raise the bound: "
                f"kubectl --namespace {NAMESPACE} patch configmap config-defaults --type merge "
                f'--patch \'{{"data":{{"{key}":"{has}"}}}}\'',
            )


def _never_accepted(service: Object) -> Iterator[Finding]:
    """What Knative refuses whatever its flags are (knative/serving, pkg/apis/serving)."""
    spec = dig(service, "spec", "predictor") or {}
    refused = [
        *(["resourceClaims (knative/serving#15332)"] if spec.get("resourceClaims") else []),
        *(
            f"a volume of the kind {kind}"
            for volume in spec.get("volumes") or ()
            for kind in sorted(volume.keys() - _PLAIN_VOLUMES - FLAG_OF_VOLUME.keys())
        ),
    ]
    if refused:
        yield Finding(
            "fail",
            f"{title(service)}: Knative does not accept {' or '.join(refused)}",
            "Deploy in Standard mode (chart value predictor.deploymentMode=Standard), or remove "
            "it.",
        )


def _is_on(flag: str, data: dict[str, str]) -> bool:
    value = str(data.get(flag) or ("enabled" if flag in _ON_BY_DEFAULT else "disabled")).lower()
    return value == "enabled" or (value == "allowed" and flag not in _MUST_BE_ENABLED)
