"""The arithmetic of ResourceQuotas: what a pod counts, and whether a quota admits it.

After kubernetes/kubernetes, pkg/quota/v1/evaluator/core/pods.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from .quantities import Quantity, number

Object = dict[str, Any]


def usage(pod: Object) -> dict[str, Decimal]:
    """What the pod counts, by a quota's names. The API server fills a request in from its limit."""
    total: dict[str, Decimal] = {"pods": Decimal(1)}
    for container in pod["containers"]:
        for key, quantity in _counted(container).items():
            total[key] = total.get(key, Decimal(0)) + number(quantity)
    return total


def refusals(pod: Object, hard: Mapping[str, Quantity]) -> Iterator[str]:
    """What a quota without any use has against the pod."""
    for container in pod["containers"]:
        for key in hard.keys() - _counted(container).keys() - {"pods"}:
            # An extended resource counts where it is asked for; of CPU and memory each must say.
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
