"""Read an InferenceService, a Job or a Deployment with everything that explains its state."""

from __future__ import annotations

import time
from collections.abc import Iterable

from deploy.cluster import Cluster
from deploy.errors import ForbiddenError, UnreachableError
from deploy.explain import Explanation, Snapshot
from deploy.objects import Object, dig, name_of, title
from deploy.waits import Deadline, Waits
from deploy.workload import claims_used

ISVC_LABEL = "serving.kserve.io/inferenceservice"
JOB_LABEL = "job-name"
_SETS = (("apps/v1", "ReplicaSet"),)
# What stands between an object and its pods; all of it has the labels of the pods.
_OWNERS = {
    "InferenceService": (
        ("serving.knative.dev/v1", "Revision"),
        ("apps/v1", "Deployment"),
        *_SETS,
    ),
    "Deployment": _SETS,
}
_PAUSE_SECONDS = 1.0


def observe(cluster: Cluster, item: Object) -> Snapshot | None:
    """The object with its pods, claims, owners and events; None if it does not exist."""
    found = cluster.get(item["apiVersion"], item["kind"], name_of(item))
    if found is None:
        return None
    selector = _selector(item)
    pods = _list(cluster, "v1", "Pod", selector)
    kinds = _OWNERS.get(item["kind"], ())
    names = {*claims_used([item]), *_claims_of(pods)}
    claims = (cluster.get("v1", "PersistentVolumeClaim", name) for name in sorted(names))
    return Snapshot(
        found,
        sorted(pods, key=_age, reverse=True),
        [claim for claim in claims if claim],
        _list(cluster, "v1", "Event"),
        owners=[owner for kind in kinds for owner in _list(cluster, *kind, selector)],
    )


def jobs_that_mount(cluster: Cluster, claims: Iterable[Object]) -> list[Object]:
    """The Jobs of the namespace whose pods mount one of the claims, such as a download."""
    names = {name_of(claim) for claim in claims}
    return [job for job in _list(cluster, "batch/v1", "Job") if names & claims_used([job]).keys()]


def observe_with_retries(
    cluster: Cluster, item: Object, waits: Waits, deadline: Deadline
) -> Snapshot | None:
    """The same, but keep trying while the API server is unreachable, as when it restarts."""
    while True:
        try:
            return observe(cluster, item)
        except UnreachableError as error:
            explanation = Explanation(f"{error}; retrying")
            deadline.check(f"{title(item)} cannot be read", explanation)
            waits.report(explanation)
            time.sleep(deadline.at_most(_PAUSE_SECONDS))


def _list(cluster: Cluster, api_version: str, kind: str, labels: str = "") -> list[Object]:
    try:
        return cluster.list(api_version, kind, labels=labels)
    except ForbiddenError:
        # Without them the explanation is less precise; nothing else needs them.
        return []


def _selector(item: Object) -> str:
    """The labels of the object's pods."""
    if labels := dig(item, "spec", "selector", "matchLabels"):
        return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
    label = JOB_LABEL if item["kind"] == "Job" else ISVC_LABEL
    return f"{label}={name_of(item)}"


def _claims_of(pods: Iterable[Object]) -> list[str]:
    volumes = [volume for pod in pods for volume in dig(pod, "spec", "volumes") or ()]
    return [name for one in volumes if (name := dig(one, "persistentVolumeClaim", "claimName"))]


def _age(pod: Object) -> str:
    return str(dig(pod, "metadata", "creationTimestamp") or "")
