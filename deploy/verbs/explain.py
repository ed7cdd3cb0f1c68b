"""``explain``: the state of any InferenceService, with everything that its state follows from."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.cluster import Cluster
from deploy.console import Reporter
from deploy.errors import NotPreparedError, UsageError
from deploy.explain import Snapshot, explain_origin, explain_refusal
from deploy.explain.rollout import latest_rollout
from deploy.explain.snapshot import condition, message_of
from deploy.objects import Object, dig, name_of, title
from deploy.observe import jobs_that_mount, observe
from deploy.settings import Explain
from deploy.verbs.status import report, report_claim
from deploy.workload import INFERENCE_SERVICE, deployment_mode, is_ours

_LEVELS = {"True": "ok", "False": "warn"}


def run(flags: Explain, reporter: Reporter) -> None:
    """Print its origin, conditions, revisions, pods, claims and Jobs, then the explanation.

    Raises:
        UsageError: there is no InferenceService of that name.
        NotPreparedError: KServe is not installed.
        ServiceError, NotReadyError: as for `status`.
    """
    cluster = Cluster.connect(flags.kubeconfig, flags.context, flags.namespace)
    seen = _seen(cluster, flags.name)
    _header(cluster, seen.item, reporter)
    for line in [*_conditions(seen.item), *_owners(seen), *map(_pod, seen.pods)]:
        reporter.finding(*line)
    for claim in seen.claims:
        report_claim(claim, claim, reporter)
    for job in jobs_that_mount(cluster, seen.claims):
        _job(cluster, job, reporter)
    reporter.say("")
    if error := report(seen.item, seen, reporter):
        raise error


def _seen(cluster: Cluster, name: str) -> Snapshot:
    if not cluster.knows(*INFERENCE_SERVICE):
        version, kind = INFERENCE_SERVICE
        raise NotPreparedError(
            str(explain_refusal(f'no matches for kind "{kind}" in version "{version}"'))
        )
    found = cluster.get(*INFERENCE_SERVICE, name)
    seen = observe(cluster, found) if found else None
    if seen is None:
        names = ", ".join(map(name_of, cluster.list(*INFERENCE_SERVICE))) or "none"
        raise UsageError(
            f"NAME: namespace {cluster.namespace} has no InferenceService {name!r}; available: "
            f"{names}. Choose another namespace with --namespace."
        )
    return seen


def _header(cluster: Cluster, item: Object, reporter: Reporter) -> None:
    mode = deployment_mode({}, dig(item, "status", "deploymentMode") or deployment_mode(item))
    url = dig(item, "status", "url") or "no address yet"
    reporter.say(f"{title(item)} in namespace {cluster.namespace}: {mode} mode, {url}")
    source = explain_origin(item)
    reporter.say(source.reason)
    if source.advice:
        reporter.say(source.advice)


def _conditions(item: Object) -> Iterator[tuple[str, str]]:
    for one in dig(item, "status", "conditions") or ():
        if one.get("type") != "Stopped" or one.get("status") == "True":
            yield _condition("condition", one)


def _owners(seen: Snapshot) -> Iterator[tuple[str, str]]:
    """The latest Revision, or in Standard mode the Deployment, by the condition that decides."""
    for owner in latest_rollout(seen).owners:
        kind = {"Revision": "Ready", "Deployment": "Available"}.get(owner["kind"])
        if kind and (found := condition(owner, kind)):
            yield _condition(title(owner), found)


def _condition(what: str, found: Object) -> tuple[str, str]:
    why = ": ".join(filter(None, (found.get("reason"), message_of(found))))
    level = _LEVELS.get(str(found.get("status")), "wait")
    return level, f"{what} {found['type']}: {found.get('status')}{f' ({why})' if why else ''}"


def _pod(pod: Object) -> tuple[str, str]:
    status = pod.get("status") or {}
    containers = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    node = dig(pod, "spec", "nodeName")
    details = "; ".join(map(_container, containers))
    ready = condition(pod, "Ready").get("status") == "True"
    return (
        "ok" if ready else "wait",
        f"{title(pod)}: {status.get('phase') or 'unknown'}"
        + (f" on node {node}" if node else "")
        + (f"; {details}" if details else ""),
    )


def _container(status: Object) -> str:
    state = next(iter(status.get("state") or ()), "unknown")
    reason = None if status.get("ready") else dig(status, "state", state, "reason")
    restarts = status.get("restartCount")
    return (
        f"{status['name']} {'ready' if status.get('ready') else state}"
        + (f" ({reason})" if reason else "")
        + (f", restarts: {restarts}" if restarts else "")
    )


def _job(cluster: Cluster, job: Object, reporter: Reporter) -> None:
    """Our download is explained; of another Job only its conditions are known."""
    if is_ours(job):
        report(job, observe(cluster, job), reporter)
        return
    failed = condition(job, "Failed")
    if failed.get("status") == "True":
        reporter.finding("fail", f"{title(job)}: failed ({message_of(failed)})")
    else:
        complete = condition(job, "Complete").get("status") == "True"
        reporter.finding(*(("ok", f"{title(job)}: complete") if complete else _running(job)))


def _running(job: Object) -> tuple[str, str]:
    return "wait", f"{title(job)}: not complete; it mounts the same claim as the service"
