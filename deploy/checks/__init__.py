"""The doctor's checks: what our objects need of a cluster, and what to do where it is not there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.checks import (
    kinds,
    knative,
    kserve,
    kubernetes,
    nodes,
    permission,
    quota,
    resources,
    secrets,
    storage,
)
from deploy.checks.finding import Finding, Level
from deploy.cluster import Cluster
from deploy.errors import ForbiddenError
from deploy.objects import Object

__all__ = ["CHECKS", "Finding", "Level", "examine"]

CHECKS = (kubernetes, permission, kinds, kserve, resources, knative, storage, nodes, secrets, quota)


def examine(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """All findings; what we may not read is a warning and not a failure."""
    for check in CHECKS:
        try:
            yield from check.check(cluster, objects)
        except ForbiddenError as error:
            yield Finding("warn", f"{check.TITLE}: cannot be checked", str(error))
