"""The doctor's checks: what our objects need from a cluster, and how to provide it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.checks import (
    gateway,
    knative,
    kserve,
    kubernetes,
    nodes,
    permission,
    quota,
    read_speed,
    references,
    resources,
    secrets,
    storage,
)
from deploy.checks.finding import Finding, Level
from deploy.cluster import Cluster
from deploy.errors import ForbiddenError, UsageError
from deploy.objects import Object

__all__ = ["CHECKS", "Finding", "Level", "examine"]

CHECKS = (
    kubernetes,
    permission,
    kserve,
    resources,
    knative,
    storage,
    read_speed,
    nodes,
    secrets,
    references,
    gateway,
    quota,
)


def examine(
    cluster: Cluster, objects: Sequence[Object], skip: Sequence[str] = ()
) -> Iterator[Finding]:
    """All findings, except those of the checks in ``skip`` (their titles, in any case).

    Where we lack the permission to read, the finding is a warning and not a failure.

    Raises:
        UsageError: no check has that title.
    """
    titles = [check.TITLE.lower() for check in CHECKS]
    if unknown := [one for one in skip if one.lower() not in titles]:
        raise UsageError(f"--skip: no check {unknown[0]!r}; the checks are {', '.join(titles)}")
    skipped = {one.lower() for one in skip}
    for check in (one for one in CHECKS if one.TITLE.lower() not in skipped):
        try:
            yield from check.check(cluster, objects)
        except ForbiddenError as error:
            yield Finding("warn", f"{check.TITLE}: cannot be checked", str(error))
