"""The API server's validation of a pod's spec, beyond its schema.

Source: kubernetes/kubernetes, pkg/apis/core/validation/validation.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .kserve_webhook import repeated
from .quantities import number

Object = dict[str, Any]
LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
HANDLERS = {"httpGet", "tcpSocket", "exec", "grpc"}
SECTIONS = ("limits", "requests")


def refusals(pod: Object) -> Iterator[str]:
    """The validation errors of the pod, each with its location."""
    volumes = [item["name"] for item in pod.get("volumes", [])]
    names = [item["name"] for item in pod["containers"]]
    yield from (f"containers: Duplicate value: {name}" for name in repeated(names))
    yield from (f"volumes: Duplicate value: {name}" for name in repeated(volumes))
    for name in [*names, *volumes]:
        if not re.fullmatch(LABEL, name):
            yield f"{name}: must be a lowercase RFC 1123 label"
    for volume in pod.get("volumes", []):
        if len(volume) != 2:
            yield f"{volume['name']}: must specify one volume type"
        yield from _quantity_refusals("sizeLimit", volume.get("emptyDir", {}))
    ports = [port for item in pod["containers"] for port in item.get("ports", [])]
    yield from _port_refusals(ports)
    claims = {item["name"] for item in pod.get("resourceClaims", [])}
    for container in pod["containers"]:
        for refusal in _container_refusals(container, set(volumes)):
            yield f"{container['name']}: {refusal}"
        for claim in container.get("resources", {}).get("claims", []):
            if claim["name"] not in claims:
                yield f"{container['name']}: resources.claims: {claim['name']}: Not found"


def _container_refusals(container: Object, volumes: set[str]) -> Iterator[str]:
    if not container.get("image"):
        yield "image: Required value"
    yield from _resource_refusals(container.get("resources", {}))
    yield from _variable_refusals(container.get("env", []))
    yield from _mount_refusals(container.get("volumeMounts", []), volumes)
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        if kind in container:
            yield from (f"{kind}: {one}" for one in _probe_refusals(container[kind], kind))


def _resource_refusals(resources: Object) -> Iterator[str]:
    for section in SECTIONS:
        for name in resources.get(section, {}):
            yield from _quantity_refusals(name, resources[section])
    limits, requests = (resources.get(section, {}) for section in SECTIONS)
    for name, request in requests.items():
        limit = limits.get(name)
        if "/" in name and (limit is None or number(limit) != number(request)):
            yield f"requests.{name}: must be equal to {name} limit of {limit}"
        elif limit is not None and number(request) > number(limit):
            most = f"{name} limit of {limit}"
            yield f"requests.{name}: {request!r}: must be less than or equal to {most}"
    for name, limit in limits.items():
        if "/" in name and number(limit) != int(number(limit)):
            yield f"limits.{name}: must be an integer"


def _quantity_refusals(key: str, holder: Object) -> Iterator[str]:
    try:
        if key in holder and number(holder[key]) < 0:
            yield f"{key}: must be greater than or equal to 0"
    except ValueError:
        yield f"{key}: {holder[key]!r} is not a quantity"


def _variable_refusals(variables: list[Object]) -> Iterator[str]:
    names = [item["name"] for item in variables]
    yield from (f"env: Duplicate value: {name}" for name in repeated(names))
    for item in variables:
        if not item["name"] or "=" in item["name"]:
            yield f"env: {item['name']!r} is not a name"
        if "value" in item and not isinstance(item["value"], str):
            yield f"env: {item['name']} is not a string"
        if item.get("value") and "valueFrom" in item:
            yield f"env: {item['name']} has a value and valueFrom"


def _port_refusals(ports: list[Object]) -> Iterator[str]:
    names = [port["name"] for port in ports if "name" in port]
    yield from (f"ports: Duplicate value: {name}" for name in repeated(names))
    for name in names:
        if len(name) > 15 or not re.fullmatch(LABEL, name) or not re.search("[a-z]", name):
            yield f"ports: {name!r} is not a name of at most 15 characters"
    for port in ports:
        if not 1 <= port["containerPort"] <= 65535:
            yield f"ports: {port['containerPort']} must be between 1 and 65535"


def _probe_refusals(probe: Object, kind: str) -> Iterator[str]:
    if len(probe.keys() & HANDLERS) != 1:
        yield "must specify one handler type"
    for field in ("periodSeconds", "timeoutSeconds", "successThreshold", "failureThreshold"):
        if probe.get(field, 1) < 1:
            yield f"{field}: must be greater than 0"
    if kind != "readinessProbe" and probe.get("successThreshold", 1) != 1:
        yield "successThreshold: must be 1"
    path = probe.get("httpGet", {}).get("path", "/")
    if not path.startswith("/"):
        yield f"httpGet.path: {path!r} does not begin with '/'"


def _mount_refusals(mounts: list[Object], volumes: set[str]) -> Iterator[str]:
    paths = [mount["mountPath"] for mount in mounts]
    yield from (f"volumeMounts: {path} must be unique" for path in repeated(paths))
    for mount in mounts:
        if mount["name"] not in volumes:
            yield f"volumeMounts: {mount['name']}: Not found"
        if not mount["mountPath"] or ":" in mount["mountPath"]:
            yield f"volumeMounts: {mount['mountPath']!r} is not a path"
        subpath = mount.get("subPath", "")
        if subpath.startswith("/") or ".." in subpath.split("/"):
            yield f"volumeMounts: {subpath!r} must be a relative path below the volume"
