"""Why a container that runs is not ready or restarts: its probes, from the kubelet's events."""

from __future__ import annotations

import re

from deploy.explain.snapshot import Explanation, Snapshot, message_of
from deploy.objects import Object, dig, name_of
from deploy.workload import QUEUE_PROXY

_FAILED = re.compile(r"(?P<kind>Startup|Readiness|Liveness) probe (?:failed|errored\S*):?\s*")
_KILLED = re.compile(r"failed (?P<kind>startup|liveness) probe, will be restarted")
_ADVICE = (
    (
        r"connection refused",
        "Nothing listens on that port yet. A predictor listens on the `containerPort` of its spec "
        "(8080 if it sets none), on all addresses and not only on localhost.",
    ),
    (
        r"statuscode: 404",
        "The server has no such path: correct the `path` of the probe.",
    ),
    (
        r"statuscode: [45]",
        "The server runs and reports that it is not ready, perhaps because it is still loading.",
    ),
    (
        r"deadline exceeded|timed? ?out|Client\.Timeout",
        "The server answers too slowly: raise `timeoutSeconds` of the probe, or the CPU limit.",
    ),
    (
        r"executable file not found|no such file",
        "The image lacks the program of the probe: use an HTTP or TCP probe.",
    ),
)


def explain_probe(pod: Object, seen: Snapshot) -> Explanation | None:
    """The latest failure of a probe of a pod that runs; None if the kubelet reported none."""
    for event in seen.events_about(pod):
        message = message_of(event)
        if event.get("reason") != "Unhealthy" or not (found := _FAILED.match(message)):
            continue
        container, kind = _container(event), found["kind"].lower()
        cause = message[found.end() :].strip() or "no message"
        whose = (
            "Knative's probe of the predictor"
            if container == QUEUE_PROXY
            else f"the {kind} probe of container {container}"
        )
        return Explanation(
            f"Pod {name_of(pod)} runs, but {whose} fails: {cause}",
            f"{_advice(cause)}Its log: kubectl logs {name_of(pod)} --all-containers",
        )
    return None


def explain_restart(pod: Object, container: str, seen: Snapshot) -> Explanation | None:
    """A restart by the kubelet because of a probe; None if the container ended by itself."""
    events = seen.events_about(pod)
    killed = [
        found["kind"]
        for event in events
        if event.get("reason") == "Killing"
        and _container(event) in (container, "?")
        and (found := _KILLED.search(message_of(event)))
    ]
    if not killed:
        return None
    causes = (_cause(event, killed[0]) for event in events)
    cause = next(filter(None, causes), "")
    return Explanation(
        f"The kubelet restarts container {container} of pod {name_of(pod)}, because its "
        f"{killed[0]} probe fails{f': {cause}' if cause else '.'}",
        f"{_advice(cause)}If the start takes long, raise `failureThreshold` of the startup probe. "
        f"Its log: kubectl logs {name_of(pod)} --container {container} --previous",
    )


def _cause(event: Object, kind: str) -> str:
    found = _FAILED.match(message_of(event))
    if event.get("reason") != "Unhealthy" or found is None or found["kind"].lower() != kind:
        return ""
    return message_of(event)[found.end() :].strip()


def _advice(cause: str) -> str:
    matching = (f"{text}\n" for pattern, text in _ADVICE if re.search(pattern, cause))
    return next(matching, "")


def _container(event: Object) -> str:
    """From a field path such as `spec.containers{kserve-container}`."""
    found = re.search(r"\{(.+)\}", str(dig(event, "involvedObject", "fieldPath") or ""))
    return found[1] if found else "?"
