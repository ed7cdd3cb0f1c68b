"""A pod's resources as the API server admits them: what KServe, Knative and LimitRanges fill in.

Pure functions; a pod's spec goes in and comes out with every container's `resources` complete.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from deploy.objects import Object, dig, name_of
from deploy.workload import MODEL_CONTAINER, QUEUE_PROXY, containers, quantity, total_of

# As in a container's `resources`: {"requests": {"cpu": "25m"}, "limits": {}}
Resources = Mapping[str, Mapping[str, Any]]
_SECTIONS = {"request": "requests", "limit": "limits"}
# Knative's own values (knative/serving, pkg/deployment/config.go). All but the first apply only
# with the feature `queueproxy.resource-defaults`.
_QUEUE_PROXY_CPU_REQUEST = "25m"
_QUEUE_PROXY_DEFAULTS = {"cpu-limit": "1000m", "memory-request": "400Mi", "memory-limit": "800Mi"}
_QUEUE_PROXY_ANNOTATION = "queue.sidecar.serving.knative.dev"


@dataclass(frozen=True)
class Platform:
    """The settings of a cluster that change a pod's resources."""

    inference_service_config: Object | None = None
    config_deployment: Object | None = None
    config_features: Object | None = None
    limit_ranges: Sequence[Object] = field(default=())


def admitted(item: Object, spec: Object, mode: str, platform: Platform) -> Object:
    """The spec of the pods that ``item`` makes, once all webhooks have changed it.

    ``mode`` is `Knative` or `Standard` for an InferenceService, and without meaning for others.
    """
    spec = copy.deepcopy(spec)
    is_service = item["kind"] == "InferenceService"
    if is_service and spec.get("containers"):
        # Only the first container (kserve/kserve, pkg/apis/serving/v1beta1/predictor_custom.go).
        _fill(spec["containers"][0], kserve_defaults(platform.inference_service_config) or {})
    if is_service and mode == "Knative":
        annotations = dig(item, "metadata", "annotations") or {}
        resources = _queue_proxy(annotations, platform)
        spec.setdefault("containers", []).append({"name": QUEUE_PROXY, "resources": resources})
    for container in containers(spec):
        # The API server's own default comes before any LimitRange.
        _fill(container, {"requests": dig(container, "resources", "limits") or {}})
        for limit in _limits(platform.limit_ranges, "Container"):
            limits = limit.get("default") or {}
            requests = limit.get("defaultRequest") or limits
            _fill(container, {"limits": limits, "requests": requests})
    return spec


def kserve_defaults(config: Object | None) -> Resources | None:
    """What KServe's webhook sets where the first container sets nothing.

    ``config`` is `inferenceservice-config`; None if its key `inferenceService` is not valid JSON.
    (kserve/kserve, pkg/apis/serving/v1beta1/inference_service_defaults.go)
    """
    try:
        found = json.loads(dig(config, "data", "inferenceService") or "{}")
    except (ValueError, RecursionError):
        return None
    return {
        section: {
            name: str(value)
            for name in ("cpu", "memory")
            if (value := dig(found, "resource", f"{name}{kind.title()}"))
        }
        for kind, section in _SECTIONS.items()
    }


def breaches(spec: Object, limit_ranges: Sequence[Object]) -> Iterator[str]:
    """The LimitRange bounds that the pod violates, one sentence each."""
    for limit in _limits(limit_ranges, "Container"):
        for container in containers(spec):
            resources = container.get("resources") or {}
            yield from _out_of_bounds(f"container {_name(container)}", resources, limit)
    for limit in _limits(limit_ranges, "Pod"):
        yield from _out_of_bounds("the pod", total_of(spec), limit)


def unset(spec: Object, quota_name: str) -> list[str]:
    """The containers without the resource that a quota's name means, as in `limits.cpu`."""
    section, _, name = quota_name.rpartition(".")
    return [
        _name(one)
        for one in containers(spec)
        if name not in (dig(one, "resources", section or "requests") or {})
    ]


def _queue_proxy(annotations: Mapping[str, Any], platform: Platform) -> Resources:
    config = dig(platform.config_deployment, "data") or {}
    features = dig(platform.config_features, "data") or {}
    has_defaults = str(features.get("queueproxy.resource-defaults")).lower() == "enabled"
    known = {"cpu-request": _QUEUE_PROXY_CPU_REQUEST}
    known |= _QUEUE_PROXY_DEFAULTS if has_defaults else {}
    resources: dict[str, dict[str, Any]] = {"requests": {}, "limits": {}}
    for name in ("cpu", "memory", "ephemeral-storage"):
        for kind, section in _SECTIONS.items():
            value = (
                annotations.get(f"{_QUEUE_PROXY_ANNOTATION}/{name}-resource-{kind}")
                or config.get(f"queue-sidecar-{name}-{kind}")
                or known.get(f"{name}-{kind}")
            )
            if value:
                resources[section][name] = value
    return resources


def _name(container: Object) -> str:
    """KServe names the container of its `model` form itself."""
    return str(container.get("name") or MODEL_CONTAINER)


def _fill(container: Object, values: Resources) -> None:
    resources = container.setdefault("resources", {})
    for section, defaults in values.items():
        resources[section] = {**defaults, **(resources.get(section) or {})}


def _limits(limit_ranges: Sequence[Object], kind: str) -> Iterator[Object]:
    for one in limit_ranges:
        for limit in dig(one, "spec", "limits") or ():
            if limit.get("type") == kind:
                yield {**limit, "name": name_of(one)}


def _out_of_bounds(whose: str, resources: Resources, limit: Object) -> Iterator[str]:
    """As the LimitRanger does: `min` bounds the requests and `max` the limits."""
    for name, least in (limit.get("min") or {}).items():
        value = dig(resources, "requests", name)
        if value is None or quantity(value) < quantity(least):
            asked = "sets no request" if value is None else f"requests {_text(value)}"
            yield f"{limit['name']}: {whose} {asked} of {name}, and the minimum is {least}"
    for name, most in (limit.get("max") or {}).items():
        value = dig(resources, "limits", name)
        if value is None or quantity(value) > quantity(most):
            has = "sets no limit" if value is None else f"has a limit of {_text(value)}"
            yield f"{limit['name']}: {whose} {has} of {name}, and the maximum is {most}"


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, Decimal) else str(value)
