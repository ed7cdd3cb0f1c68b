"""``status``: print the state of everything, and why it waits."""

from __future__ import annotations

from deploy.console import Reporter
from deploy.errors import DeployError, DownloadError, NotReadyError, ServiceError
from deploy.explain import Explanation, Snapshot, explain
from deploy.explain.snapshot import condition
from deploy.objects import Object, dig, name_of, title
from deploy.observe import observe
from deploy.session import Session
from deploy.settings import Status
from deploy.workload import claims_made, jobs, rollouts, services


def run(flags: Status, reporter: Reporter) -> None:
    """Print a line for each claim, Job, service, Deployment and StatefulSet.

    Raises:
        DownloadError, ServiceError: one of them has failed.
        NotReadyError: one of them is not ready or does not exist.
    """
    session = Session.open(flags, flags.folder)
    for claim in claims_made(session.objects):
        report_claim(session.cluster.get("v1", claim["kind"], name_of(claim)), claim, reporter)
    errors = [
        report(item, observe(session.cluster, item), reporter)
        for item in [
            *jobs(session.objects),
            *services(session.objects),
            *rollouts(session.objects),
        ]
    ]
    # A failure comes before a wait, and the download before the service that waits for it.
    wrong = sorted(filter(None, errors), key=lambda error: isinstance(error, NotReadyError))
    if wrong:
        raise wrong[0]


def report_claim(found: Object | None, claim: Object, reporter: Reporter) -> None:
    """Print the phase and size of a claim, which ``found`` is in the cluster."""
    phase = dig(found, "status", "phase") if found else "does not exist"
    size = dig(found, "status", "capacity", "storage")
    level = "ok" if phase == "Bound" else "warn"
    reporter.finding(level, f"{title(claim)}: {phase}{f', {size}' if size else ''}")


def report(item: Object, seen: Snapshot | None, reporter: Reporter) -> DeployError | None:
    """Print the state of an object; return an error unless it is done or ready."""
    is_job = item["kind"] == "Job"
    if seen is None:
        # Its TTL may have removed a Job that is done.
        reporter.finding("warn", f"{title(item)}: does not exist")
        return None if is_job else NotReadyError(f"{title(item)} is not deployed; run `up`")
    explanation = explain(seen)
    if is_job and explanation is None:
        complete = condition(seen.item, "Complete").get("status") == "True"
        reporter.finding("ok", f"{title(item)}: {'complete' if complete else 'downloading'}")
        return None if complete else NotReadyError(f"{title(item)} is still downloading")
    if explanation is None:
        url = dig(seen.item, "status", "url")
        reporter.finding("ok", f"{title(item)}: ready{f' at {url}' if url else ''}")
        return None
    return _report_explanation(item, explanation, reporter)


def _report_explanation(item: Object, explanation: Explanation, reporter: Reporter) -> DeployError:
    level = "fail" if explanation.fatal else "warn"
    reporter.finding(level, f"{title(item)}: {explanation.reason}", explanation.advice)
    if not explanation.fatal:
        return NotReadyError(f"{title(item)} is not ready")
    failed = DownloadError if item["kind"] == "Job" else ServiceError
    return failed(f"{title(item)} has failed")
