"""The arithmetic of ResourceQuotas: a pod's usage, and whether a quota admits it.

Source: kubernetes/kubernetes, pkg/quota/v1/evaluator/core/pods.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from .quantities import Quantity, number

Object = dict[str, Any]


def usage(pod: Object) -> dict[str, Decimal]:
    """The pod's usage by a quota's names. The API server defaults a request to its limit."""
    total: dict[str, Decimal] = {"pods": Decimal(1)}
    for container in pod["containers"]:
        for key, quantity in _counted(container).items():
            total[key] = total.get(key, Decimal(0)) + number(quantity)
    return total


def refusals(pod: Object, hard: Mapping[str, Quantity]) -> Iterator[str]:
    """The reasons why an unused quota rejects the pod."""
    for container in pod["containers"]:
        for key in hard.keys() - _counted(container).keys() - {"pods"}:
            # Each container must set CPU and memory; extended resources are optional.
            if "/" not in key:
                yield f"must specify {key} for: {container['name']}"
    for key, used in usage(pod).items():
        if key in hard and used > number(hard[key]):
            yield f"exceeded quota: requested: {key}={used}, limited: {key}={hard[key]}"


def _counted(container: Object) -> dict[str, Quantity]:
    limits = container.get("resources", {}).get("limits", {})
    requests = limits | container.get("resources", {}).get("requests", {})
    counted = {f"requests.{name}": quantity for name, quantity in requests.items()}
    counted |= {f"limits.{name}": limits[name] for name in limits if "/" not in name}
    return counted
