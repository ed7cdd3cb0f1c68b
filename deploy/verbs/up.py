"""``up``: check, apply, follow the download, wait for the service, request a picture."""

from __future__ import annotations

from pathlib import Path

from deploy.apply import Applied, Applier
from deploy.console import Reporter
from deploy.download import follow_download
from deploy.objects import Object, name_of, of_kind, title
from deploy.readiness import wait_for_service
from deploy.session import Session
from deploy.settings import Up, seconds_of
from deploy.verbs.doctor import check_before
from deploy.verbs.predict import draw
from deploy.waits import Deadline
from deploy.workload import jobs, services


def run(flags: Up, reporter: Reporter) -> None:
    """Safe to repeat: what is already as it should be does not change."""
    deadline = Deadline(seconds_of(flags.timeout))
    session = Session.open(flags, flags.folder)
    reporter.say(f"deploying {flags.folder} to namespace {session.cluster.namespace}")
    check_before(session, flags.skip, reporter)
    # The cluster validates all objects before the first change.
    if flags.dry_run or not of_kind(session.objects, "Namespace"):
        validator = Applier(
            session.cluster, reporter, deadline, flags.force_conflicts, dry_run=True
        )
        results = [validator.apply(item) for item in session.objects]
        if flags.dry_run:
            for one in results:
                reporter.say(f"{title(one.item)} {one.outcome} (dry run)")
            return

    # A predictor without weights would hold a GPU and use up its progress deadline.
    applier = Applier(session.cluster, reporter, deadline, flags.force_conflicts)
    serving = services(session.objects)
    for item in session.objects:
        if item not in serving:
            _apply(applier, item)
    for job in jobs(session.objects):
        follow_download(session.cluster, job, reporter, deadline)
    applied = [_apply(applier, item) for item in serving]
    for one in applied:
        service = wait_for_service(session.cluster, one, reporter, deadline)
        output = _output(flags.output, service, len(applied))
        draw(service, flags.address, {"prompt": flags.prompt}, output, deadline, reporter)


def _apply(applier: Applier, item: Object) -> Applied:
    applied = applier.apply(item)
    applier.reporter.finding("ok", f"{title(item)} {applied.outcome}")
    return applied


def _output(path: Path, service: Object, count: int) -> Path:
    """Several services must not overwrite each other's picture."""
    return path if count == 1 else path.with_stem(f"{path.stem}-{name_of(service)}")
