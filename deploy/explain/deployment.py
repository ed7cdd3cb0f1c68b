"""Why a Deployment or StatefulSet, such as the jobs program or its Valkey, is not rolled out."""

from __future__ import annotations

from dataclasses import replace

from deploy.explain.claims import explain_claim
from deploy.explain.pods import explain_pods, last_termination
from deploy.explain.refusal import explain_refusal
from deploy.explain.rollout import (
    explain_creation,
    is_observed,
    latest_pods,
    missed_progress,
)
from deploy.explain.snapshot import Explanation, Snapshot, event_mark, message_of
from deploy.objects import Object, dig, title
from deploy.workload import containers


def explain_deployment(seen: Snapshot) -> Explanation | None:
    """Why not all pods of the present spec are ready; None if they are."""
    if _is_rolled_out(seen.item):
        return None
    seen = latest_pods(seen)
    why = (
        explain_creation(seen)
        or _explain_refused(seen)
        or _explain_storage(seen)
        or explain_pods(seen)
        or next((found for one in seen.claims if (found := explain_claim(one, seen))), None)
        or _explain_count(seen.item)
    )
    # A Deployment keeps trying after its deadline, which helps unless its container crashes.
    has_crashed = any(map(last_termination, seen.pods))
    return replace(why, fatal=True) if missed_progress(seen.item) and has_crashed else why


def _is_rolled_out(item: Object) -> bool:
    """As `kubectl rollout status` decides."""
    status, wanted = item.get("status") or {}, _wanted(item)
    counts = (
        status.get(name) or 0 for name in ("replicas", "updatedReplicas", "availableReplicas")
    )
    return is_observed(item) and all(count == wanted for count in counts)


def _wanted(item: Object) -> int:
    replicas = dig(item, "spec", "replicas")
    return 1 if replicas is None else int(replicas)


def _explain_refused(seen: Snapshot) -> Explanation | None:
    """Pods that the API server does not let a StatefulSet create."""
    if seen.pods or seen.item["kind"] != "StatefulSet":
        return None
    for event in seen.events_about(seen.item):
        if event.get("reason") == "FailedCreate" and event_mark(event) not in seen.known:
            message = message_of(event)
            return explain_refusal(message) or Explanation(f"No pod can be created: {message}")
    return None


def _explain_storage(seen: Snapshot) -> Explanation | None:
    """The jobs program fails its readiness probe while its storage does not answer."""
    spec = dig(seen.item, "spec", "template", "spec") or {}
    env = {one.get("name") for each in containers(spec) for one in each.get("env") or ()}
    why = explain_pods(seen)
    if why is None or "JOBS_REDIS_URL" not in env or "statuscode: 503" not in why.reason:
        return None
    return replace(
        why,
        advice="The Redis or Valkey of the jobs does not answer. Check the URL in the Secret "
        "(chart value jobs.redis.secretName), and that networkPolicy.jobsEgress allows it. "
        f"The log has the reason: kubectl logs {title(seen.item)}",
    )


def _explain_count(item: Object) -> Explanation:
    ready = dig(item, "status", "availableReplicas") or 0
    return Explanation(f"{ready} of {_wanted(item)} pods are ready.")
