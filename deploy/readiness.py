"""Wait for an InferenceService or a Deployment, and report each reason for the wait once."""

from __future__ import annotations

import time
from dataclasses import replace

from deploy.apply import Applied
from deploy.cluster import Cluster
from deploy.console import Reporter
from deploy.errors import ServiceError
from deploy.explain import explain
from deploy.explain.rollout import creation_mark, failure_mark
from deploy.explain.snapshot import Snapshot, event_mark
from deploy.objects import Object, dig, title
from deploy.observe import observe_with_retries
from deploy.waits import Deadline, Waits

_LOOK_SECONDS = 5.0
# How long KServe may take to process a change; until then its old status says Ready.
_NOTICE_SECONDS = 10.0
# How long what was just created or changed may look broken before that is reported.
_GRACE_SECONDS = 5.0


def wait_until_ready(
    cluster: Cluster, applied: Applied, reporter: Reporter, deadline: Deadline
) -> Object:
    """The object once it is ready.

    Raises:
        ServiceError: it cannot become ready without a change.
        NotReadyError: the time is up.
    """
    waits = Waits(reporter, deadline.share(_GRACE_SECONDS) if applied.changed else 0)
    begun = time.monotonic()
    known: frozenset[str] | None = None
    while True:
        seen = observe_with_retries(cluster, applied.item, waits, deadline)
        if seen is None:
            raise ServiceError(f"{title(applied.item)} no longer exists: it was deleted")
        if known is None:
            known = _known(applied, seen)
        seen = replace(seen, known=known)
        if not _is_stale(applied, seen.item, begun):
            explanation = explain(seen)
            if explanation is None:
                reporter.finding("ok", f"{title(seen.item)} is ready")
                return seen.item
            if explanation.fatal:
                raise ServiceError(f"{title(seen.item)}: {explanation}")
            deadline.check(f"{title(seen.item)} is not ready", explanation)
            waits.report(explanation)
        cluster.wait_for_change(seen.item, deadline.at_most(waits.at_most(_LOOK_SECONDS)))


def _known(applied: Applied, seen: Snapshot) -> frozenset[str]:
    """Marks of what happened before this change and therefore does not concern it."""
    if applied.outcome == "created":
        return frozenset()
    marks = [*map(event_mark, seen.events), *map(creation_mark, seen.owners)]
    if applied.outcome == "configured":
        marks += map(failure_mark, seen.owners)
    return frozenset(filter(None, marks))


def _is_stale(applied: Applied, item: Object, begun: float) -> bool:
    """Whether the status is still that of the former spec."""
    if applied.outcome != "configured" or applied.before is None:
        return False
    same = dig(item, "status") == applied.before.get("status")
    return same and time.monotonic() - begun < _NOTICE_SECONDS
