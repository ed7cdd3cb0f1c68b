"""Resources: what KServe's webhook fills into our containers, and whether the result is valid.

The webhook sets the requests and limits of CPU and memory that the first container lacks, from the
ConfigMap `inferenceservice-config`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.admission import Resources, kserve_defaults
from deploy.checks.finding import Finding
from deploy.checks.kserve import NAMESPACE
from deploy.cluster import Cluster
from deploy.objects import Object, dig, title
from deploy.workload import INFERENCE_SERVICE, MODEL_CONTAINER, containers, quantity, services

TITLE = "resources"
_CONFIG = "inferenceservice-config"


def check(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """No findings if KServe is absent: the Kubernetes check reports that."""
    if not services(objects) or not cluster.knows(*INFERENCE_SERVICE):
        return
    defaults = kserve_defaults(cluster.get("v1", "ConfigMap", _CONFIG, NAMESPACE))
    if defaults is None:
        yield Finding(
            "warn",
            f"the key inferenceService of {_CONFIG} is not valid JSON",
            f"Look at it: kubectl --namespace {NAMESPACE} describe configmap {_CONFIG}",
        )
        return
    findings = [found for one in services(objects) for found in _findings(one, defaults)]
    yield from findings or [
        Finding("ok", "KServe has no resource to fill in, and each request is within its limit")
    ]


def _findings(service: Object, defaults: Resources) -> Iterator[Finding]:
    first = containers(dig(service, "spec", "predictor") or {})[:1]
    for container in first:
        ours = _by_key(container.get("resources") or {})
        filled = {key: value for key, value in _by_key(defaults).items() if key not in ours}
        exceeded = list(_exceeded(ours | filled))
        for name in exceeded:
            request, limit = (
                f"{key} {ours[key]}" if key in ours else f"{key} {filled[key]} (KServe's default)"
                for key in (f"requests.{name}", f"limits.{name}")
            )
            yield Finding(
                "fail",
                f"{title(service)}: the API server refuses the pod: {request} exceeds {limit}",
                f"Set both, the limit to the request at least (chart value predictor.resources, "
                f"container {container.get('name') or MODEL_CONTAINER}).",
            )
        if filled and not exceeded:
            listed = ", ".join(f"{key} {value}" for key, value in filled.items())
            yield Finding(
                "warn",
                f"{title(service)}: KServe fills in {listed}",
                "Set them yourself (chart value predictor.resources): these bound the predictor, "
                "and `kubectl apply` reports a change each time.",
            )


def _by_key(resources: Resources) -> dict[str, str]:
    """`{"limits": {"cpu": 1}}` as `{"limits.cpu": "1"}`."""
    return {
        f"{section}.{name}": str(value)
        for section in ("limits", "requests")
        for name, value in (resources.get(section) or {}).items()
    }


def _exceeded(resources: dict[str, str]) -> Iterator[str]:
    for key, request in resources.items():
        section, _, name = key.partition(".")
        limit = resources.get(f"limits.{name}")
        if section == "requests" and limit is not None and quantity(request) > quantity(limit):
            yield name
