"""The latest rollout of a predictor, and why it cannot succeed.

On Knative: Configuration → Revision → Deployment → ReplicaSet → pods. In Standard mode KServe
creates the Deployment itself. Objects of former generations stay for a while, with their own pods
and their own failures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from deploy.explain.claims import explain_claim
from deploy.explain.pods import explain_pods, last_termination
from deploy.explain.refusal import explain_refusal
from deploy.explain.snapshot import Explanation, Snapshot, condition, event_mark, message_of
from deploy.objects import Object, dig, name_of, of_kind

REVISION = "serving.knative.dev/revision"
_GENERATION = "serving.knative.dev/configurationGeneration"
_ROLLOUT_NUMBER = "deployment.kubernetes.io/revision"
_DEADLINE = ("Initial scale was never achieved", "ProgressDeadlineExceeded")


def of_component(seen: Snapshot, component: str) -> Snapshot:
    """``seen`` without the pods and owners of other components, such as a transformer."""
    return replace(
        seen,
        owners=[one for one in seen.owners if _component(one) in (None, component)],
        pods=[one for one in seen.pods if _component(one) in (None, component)],
    )


def latest_rollout(seen: Snapshot, component: str = "predictor") -> Snapshot:
    """``seen`` with the owners and pods of the latest generation of a component alone.

    All pods stay if the owners are unknown: not created yet, or not readable.
    """
    seen = of_component(seen, component)
    revision = max(of_kind(seen.owners, "Revision"), key=_generation, default=None)
    deployments = [
        one
        for one in of_kind(seen.owners, "Deployment")
        if (
            _is_owned_by(one, [revision])
            if revision
            else name_of(one) == f"{name_of(seen.item)}-{component}"
        )
    ]
    newest = _newest_sets(seen, deployments)
    if revision:
        name = name_of(revision)
        pods = [one for one in seen.pods if dig(one, "metadata", "labels", REVISION) == name]
        return replace(seen, owners=[revision, *deployments, *newest], pods=pods)
    if newest:
        pods = [one for one in seen.pods if _is_owned_by(one, newest)]
        return replace(seen, owners=[*deployments, *newest], pods=pods)
    return replace(seen, owners=deployments)


def latest_pods(seen: Snapshot) -> Snapshot:
    """``seen`` of a Deployment with its newest ReplicaSet and the pods of that alone.

    All pods stay if there is none: not readable, or a StatefulSet.
    """
    newest = _newest_sets(seen, [seen.item])
    pods = [one for one in seen.pods if _is_owned_by(one, newest)] if newest else seen.pods
    return replace(seen, owners=newest, pods=pods)


def _newest_sets(seen: Snapshot, deployments: Iterable[Object]) -> list[Object]:
    sets = [one for one in of_kind(seen.owners, "ReplicaSet") if _is_owned_by(one, deployments)]
    return sorted(sets, key=_rollout_number)[-1:]


def explain_deadline(seen: Snapshot) -> Explanation | None:
    """A progress deadline that the latest rollout has missed."""
    revisions = of_kind(seen.owners, "Revision")
    for revision in revisions:
        if missed := _missed(revision, "ResourcesAvailable", "Ready"):
            return _explain_revision(revision, missed, seen)
    for deployment in () if revisions else of_kind(seen.owners, "Deployment"):
        if missed := missed_progress(deployment):
            return _explain_deployment(deployment, missed, seen)
    # Without the permission to read Revisions, KServe's own conditions have to do.
    kinds = ("PredictorReady", "LatestDeploymentReady", "PredictorConfigurationReady")
    if not revisions and (missed := _missed(seen.item, *kinds)):
        return _explain_revision(seen.item, missed, seen)
    return None


def explain_creation(seen: Snapshot) -> Explanation | None:
    """Pods that the API server refuses to create: quota, LimitRange, Pod Security."""
    if seen.pods:
        return None
    sets = of_kind(seen.owners, "ReplicaSet")
    for one in sets:
        failure = condition(one, "ReplicaFailure")
        if failure.get("status") == "True" and (message := message_of(failure)):
            return _explain_refused(message, creation_mark(one) in seen.known)
    events = [] if sets else seen.events_of("ReplicaSet", f"{name_of(seen.item)}-predictor")
    for event in events:
        if event.get("reason") == "FailedCreate" and (message := message_of(event)):
            return _explain_refused(message, event_mark(event) in seen.known)
    return None


def failure_mark(owner: Object) -> str:
    """Identifies a deadline that this owner has missed; empty if it has missed none."""
    missed = _missed(owner, "ResourcesAvailable", "Ready", "Progressing")
    uid, generation = (dig(owner, "metadata", key) for key in ("uid", "generation"))
    return f"{uid} {generation} {missed.get('reason')}" if missed else ""


def creation_mark(owner: Object) -> str:
    """Identifies the refusal of this owner's pods; empty if none was refused."""
    failure = condition(owner, "ReplicaFailure")
    refused = failure.get("status") == "True"
    return f"{dig(owner, 'metadata', 'uid')} {failure.get('lastTransitionTime')}" if refused else ""


def _explain_refused(message: str, is_old: bool) -> Explanation:
    """The controller retries after growing pauses: the cause of an old refusal may be gone."""
    explanation = explain_refusal(message) or Explanation(f"No pod can be created: {message}")
    return replace(explanation, fatal=False) if is_old else explanation


def _explain_revision(owner: Object, missed: Object, seen: Snapshot) -> Explanation:
    """Knative scales a Revision that missed its deadline to zero and never retries it."""
    why = _cause(seen)
    reason, advice = why.reason if why else _container_failure(owner), why.advice if why else ""
    said = message_of(missed) or str(missed.get("reason"))
    return Explanation(
        "The predictor did not become ready within its progress deadline: "
        + "\n".join(filter(None, (said, reason))),
        (f"{advice}\n" if advice else "")
        + "Knative does not retry this revision. Remove the cause. If the start needs more "
        "time (node, image, weights), raise the annotation "
        "`serving.knative.dev/progress-deadline`. Then delete the service and run `up` again: "
        f"kubectl delete isvc {name_of(seen.item)}",
        fatal=failure_mark(owner) not in seen.known,
    )


def _explain_deployment(deployment: Object, missed: Object, seen: Snapshot) -> Explanation:
    """A Deployment keeps trying after its deadline; only a crashing container is fatal."""
    why = _cause(seen)
    said = message_of(missed)
    return Explanation(
        "The predictor did not become ready within the Deployment's progress deadline: "
        + "\n".join(filter(None, (said, why.reason if why else ""))),
        (why.advice if why else "") or "Kubernetes keeps trying.",
        fatal=any(last_termination(pod) for pod in seen.pods)
        and failure_mark(deployment) not in seen.known,
    )


def _cause(seen: Snapshot) -> Explanation | None:
    claims = (explain_claim(one, seen) for one in seen.claims)
    return explain_pods(seen) or explain_creation(seen) or next(filter(None, claims), None)


def _container_failure(owner: Object) -> str:
    """What Knative recorded of a failed container before it removed the pods."""
    unhealthy = condition(owner, "ContainerHealthy")
    return message_of(unhealthy) if unhealthy.get("status") == "False" else ""


def _missed(owner: Object, *kinds: str) -> Object | None:
    """The condition that reports a missed deadline."""
    for found in (condition(owner, kind) for kind in kinds):
        said = f"{found.get('reason', '')} {found.get('message', '')}"
        if found.get("status") == "False" and any(mark in said for mark in _DEADLINE):
            return found
    return None


def missed_progress(deployment: Object) -> Object | None:
    """The condition of a Deployment whose present spec has missed its progress deadline."""
    return _missed(deployment, "Progressing") if is_observed(deployment) else None


def is_observed(deployment: Object) -> bool:
    """Whether the status is about the present spec."""
    observed = dig(deployment, "status", "observedGeneration")
    return observed is None or observed >= (dig(deployment, "metadata", "generation") or 0)


def _is_owned_by(item: Object, owners: Iterable[Object]) -> bool:
    uids = {dig(owner, "metadata", "uid") for owner in owners}
    references = dig(item, "metadata", "ownerReferences") or ()
    return any(one.get("uid") in uids for one in references)


def _component(item: Object) -> str | None:
    """From the label that KServe gives to what it creates for a component."""
    found = dig(item, "metadata", "labels", "component")
    return str(found) if found else None


def _generation(revision: Object) -> int:
    return int(dig(revision, "metadata", "labels", _GENERATION) or 0)


def _rollout_number(replica_set: Object) -> int:
    return int(dig(replica_set, "metadata", "annotations", _ROLLOUT_NUMBER) or 0)
