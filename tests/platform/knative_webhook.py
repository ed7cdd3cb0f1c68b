"""Knative's webhooks for a revision: defaults and validation.

Source: knative/serving 1.21, pkg/apis/serving/v1/revision_defaults.go,
pkg/apis/serving/fieldmask.go and k8s_validation.go, pkg/apis/autoscaling/annotation_validation.go.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .configuration import stock

Object = dict[str, Any]
Flags = Mapping[str, str]
REVISION_FIELDS = {"timeoutSeconds", "responseStartTimeoutSeconds", "containerConcurrency"}
POD_FIELDS = {
    "serviceAccountName",
    "containers",
    "volumes",
    "imagePullSecrets",
    "enableServiceLinks",
    "automountServiceAccountToken",
}
FLAG_OF_FIELD = {
    "affinity": "kubernetes.podspec-affinity",
    "initContainers": "kubernetes.podspec-init-containers",
    "nodeSelector": "kubernetes.podspec-nodeselector",
    "priorityClassName": "kubernetes.podspec-priorityclassname",
    "runtimeClassName": "kubernetes.podspec-runtimeclassname",
    "securityContext": "kubernetes.podspec-securitycontext",
    "tolerations": "kubernetes.podspec-tolerations",
    "topologySpreadConstraints": "kubernetes.podspec-topologyspreadconstraints",
}
POD_SECURITY_FIELDS = {
    *("runAsUser", "runAsGroup", "runAsNonRoot", "fsGroup", "supplementalGroups"),
}
CONTAINER_FIELDS = {
    *("name", "args", "command", "env", "envFrom", "image", "imagePullPolicy", "workingDir"),
    *("livenessProbe", "readinessProbe", "startupProbe", "ports", "resources"),
    *("securityContext", "terminationMessagePath", "terminationMessagePolicy", "volumeMounts"),
}
SECURITY_FIELDS = {
    *("runAsUser", "runAsGroup", "runAsNonRoot", "readOnlyRootFilesystem"),
    *("allowPrivilegeEscalation", "seccompProfile", "capabilities"),
}
VOLUME_FIELDS = {"name", "secret", "configMap", "projected", "emptyDir", "persistentVolumeClaim"}
FLAG_OF_VOLUME = {
    kind: f"kubernetes.podspec-volumes-{kind.lower()}"
    for kind in ("csi", "ephemeral", "hostPath", "image")
}
MOUNT_FIELDS = {"name", "readOnly", "mountPath", "subPath"}
RESERVED_VARIABLES = {"PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"}
RESERVED_PORTS = {8008, 8012, 8013, 8022, 8112, 9090, 9091}
LONGEST_WINDOW_SECONDS = 3600


def with_defaults(template: Object, flags: Flags) -> Object:
    """The template after the defaulting webhook."""
    result, defaults = copy.deepcopy(template), stock("config-defaults")
    spec = result["spec"]
    spec.setdefault("timeoutSeconds", int(defaults["revision-timeout-seconds"]))
    spec.setdefault("containerConcurrency", int(defaults["container-concurrency"]))
    spec.setdefault("enableServiceLinks", defaults["enable-service-links"] == "true")
    writable = {
        one["name"] for one in spec["volumes"] if {"emptyDir", "persistentVolumeClaim"} & one.keys()
    }
    for container in spec["containers"]:
        probe = container.setdefault("readinessProbe", {"tcpSocket": {}})
        probe.setdefault("successThreshold", 1)
        if probe.get("periodSeconds"):
            probe.setdefault("failureThreshold", 3)
            probe.setdefault("timeoutSeconds", 1)
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in writable:
                mount["readOnly"] = True
        if flags["secure-pod-defaults"] == "enabled":
            _secure(container.setdefault("securityContext", {}))
    return result


def refusals(template: Object, flags: Flags) -> Iterator[str]:
    """The validating webhook's errors, each with the flag that would allow the field."""
    spec = template["spec"]
    yield from annotation_refusals(template["metadata"]["annotations"])
    yield from _time_refusals(spec)
    for field in spec.keys() - REVISION_FIELDS - POD_FIELDS:
        flag = FLAG_OF_FIELD.get(field, "no flag")
        if flags.get(flag, "disabled") == "disabled":
            yield f"must not set the field {field} ({flag})"
    for field in spec.get("securityContext", {}).keys() - POD_SECURITY_FIELDS:
        yield f"must not set the field securityContext.{field}"
    if spec.get("automountServiceAccountToken", False):
        yield "must not set the field automountServiceAccountToken"
    mounted = {one["name"] for item in spec["containers"] for one in item.get("volumeMounts", [])}
    for volume in spec.get("volumes", []):
        yield from _volume_refusals(volume, flags, is_mounted=volume["name"] in mounted)
    for container in spec["containers"]:
        yield from _container_refusals(container, flags)


def annotation_refusals(annotations: Mapping[str, str]) -> Iterator[str]:
    """The validating webhook's errors about the annotations of a revision."""
    limits = stock("config-autoscaler")
    scale = {
        end: int(annotations[f"autoscaling.knative.dev/{end}-scale"]) for end in ("min", "max")
    }
    if scale["max"] and scale["max"] < scale["min"]:
        yield "max-scale is less than min-scale"
    if (most := int(limits["max-scale-limit"])) and scale["max"] > most:
        yield f"max-scale exceeds {most}"
    utilization = annotations.get("autoscaling.knative.dev/target-utilization-percentage")
    if utilization is not None and not 1 <= float(utilization) <= 100:
        yield "target-utilization-percentage is not within 1 and 100"
    if float(annotations.get("autoscaling.knative.dev/target", "1")) < 0.01:
        yield "target is too small"
    retention = annotations.get("autoscaling.knative.dev/scale-to-zero-pod-retention-period", "0s")
    if seconds(retention) > LONGEST_WINDOW_SECONDS:
        yield f"scale-to-zero-pod-retention-period: expected 0s <= {retention} <= 1h0m0s"
    deadline = seconds(annotations.get("serving.knative.dev/progress-deadline", "600s"))
    if deadline < 1 or deadline != int(deadline):
        yield "progress-deadline is not a positive number of whole seconds"


def seconds(duration: str) -> float:
    """A Go duration in seconds; raises ValueError if it is not valid."""
    parts = re.findall(r"([0-9.]+)(h|m|s)", duration)
    if "".join(map("".join, parts)) != duration or not parts:
        raise ValueError(f"{duration!r} is not a duration")
    return sum(float(count) * {"h": 3600, "m": 60, "s": 1}[unit] for count, unit in parts)


def _time_refusals(spec: Object) -> Iterator[str]:
    defaults = stock("config-defaults")
    longest = int(defaults["max-revision-timeout-seconds"])
    if not 0 <= spec["timeoutSeconds"] <= longest:
        yield f"timeoutSeconds: expected 0 <= {spec['timeoutSeconds']} <= {longest}"
    if spec.get("responseStartTimeoutSeconds", 0) > spec["timeoutSeconds"]:
        yield "responseStartTimeoutSeconds exceeds timeoutSeconds"
    if not 0 <= spec["containerConcurrency"] <= int(defaults["container-concurrency-max-limit"]):
        yield "containerConcurrency is out of bounds"


def _volume_refusals(volume: Object, flags: Flags, *, is_mounted: bool) -> Iterator[str]:
    name = volume["name"]
    if not is_mounted:
        yield f"volume with name {name!r} not mounted"
    if "emptyDir" in volume and flags["kubernetes.podspec-volumes-emptydir"] != "enabled":
        yield f"{name}: emptyDir (kubernetes.podspec-volumes-emptydir)"
    if claim := volume.get("persistentVolumeClaim"):
        if flags["kubernetes.podspec-persistent-volume-claim"] != "enabled":
            yield f"{name}: a claim (kubernetes.podspec-persistent-volume-claim)"
        if not claim.get("readOnly") and (
            flags["kubernetes.podspec-persistent-volume-write"] != "enabled"
        ):
            yield f"{name}: a writable claim (kubernetes.podspec-persistent-volume-write)"
    for field in volume.keys() - VOLUME_FIELDS:
        flag = FLAG_OF_VOLUME.get(field, "no flag")
        if flags.get(flag, "disabled") == "disabled":
            yield f"{name}: must not set the field {field} ({flag})"


def _container_refusals(container: Object, flags: Flags) -> Iterator[str]:
    yield from (f"must not set the field {one}" for one in container.keys() - CONTAINER_FIELDS)
    if container["name"] == "queue-proxy":
        yield "queue-proxy is a reserved container name"
    resources = container["resources"].keys() - {"limits", "requests"}
    yield from (f"resources: must not set the field {one}" for one in resources)
    security = container.get("securityContext", {})
    yield from (f"must not set the field {one}" for one in security.keys() - SECURITY_FIELDS)
    if "add" in security.get("capabilities", {}):
        yield "must not add capabilities (kubernetes.containerspec-addcapabilities)"
    for variable in container.get("env", []):
        if variable["name"] in RESERVED_VARIABLES:
            yield f"{variable['name']} is a reserved environment variable"
        if {"fieldRef", "resourceFieldRef"} & variable.get("valueFrom", {}).keys() and (
            flags["kubernetes.podspec-fieldref"] == "disabled"
        ):
            yield f"{variable['name']}: valueFrom (kubernetes.podspec-fieldref)"
    for mount in container.get("volumeMounts", []):
        yield from (f"must not set the field {one}" for one in mount.keys() - MOUNT_FIELDS)
        if mount["mountPath"] in ("/", "/dev", "/dev/log"):
            yield f"mountPath {mount['mountPath']} is a reserved path"
    yield from _port_refusals(container.get("ports", []))
    yield from _readiness_refusals(container["readinessProbe"])


def _port_refusals(ports: list[Object]) -> Iterator[str]:
    if len(ports) > 1:
        yield "more than one container port is set"
    for port in ports:
        if port.get("name", "") not in ("", "http1", "h2c"):
            yield f"port name {port['name']} is not allowed"
        if port["containerPort"] in RESERVED_PORTS:
            yield f"{port['containerPort']} is a reserved port"
        if port.get("protocol", "TCP") != "TCP":
            yield "the protocol must be TCP"
        if port.keys() & {"hostPort", "hostIP"}:
            yield "must not set a port of the host"


def _readiness_refusals(probe: Object) -> Iterator[str]:
    if probe["successThreshold"] < 1:
        yield "readinessProbe: successThreshold is less than 1"
    extra = {"failureThreshold", "timeoutSeconds"} & probe.keys()
    if not probe.get("periodSeconds") and extra:
        yield f"readinessProbe: {', '.join(sorted(extra))} without periodSeconds"


def _secure(security: Object) -> None:
    security.setdefault("allowPrivilegeEscalation", False)
    security.setdefault("seccompProfile", {"type": "RuntimeDefault"})
    security.setdefault("capabilities", {"drop": ["ALL"]})
    security.setdefault("runAsNonRoot", True)
