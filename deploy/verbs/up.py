"""``up``: check, apply, follow the download, wait for the service, make a picture."""

from __future__ import annotations

from pathlib import Path

from deploy.apply import Applied, apply_object
from deploy.console import Reporter
from deploy.deadline import Deadline
from deploy.download import follow_download
from deploy.objects import Object, name_of, of_kind, title
from deploy.session import Session
from deploy.settings import Up, seconds_of
from deploy.verbs.doctor import check_before
from deploy.verbs.predict import draw
from deploy.waiting import wait_for_service
from deploy.workload import jobs, services


def run(flags: Up, reporter: Reporter) -> None:
    """Safe to repeat: what is there already is left as it is."""
    deadline = Deadline(seconds_of(flags.timeout))
    session = Session.open(flags, flags.folder)
    reporter.say(f"{flags.folder} goes to namespace {session.cluster.namespace}")
    check_before(session, reporter)
    # The cluster judges all objects before it changes for the first one.
    if flags.dry_run or not of_kind(session.objects, "Namespace"):
        judged = _apply(session, session.objects, flags, dry_run=True)
        if flags.dry_run:
            for one in judged:
                reporter.say(f"{title(one.item)} {one.outcome} (dry run)")
            return

    # The service comes after the weights: until then its pod would only hold a GPU and crash.
    serving = services(session.objects)
    _tell(_apply(session, [one for one in session.objects if one not in serving], flags), reporter)
    for job in jobs(session.objects):
        follow_download(session.cluster, job, reporter, deadline)
    applied = _apply(session, serving, flags)
    _tell(applied, reporter)
    for one in applied:
        service = wait_for_service(session.cluster, one, reporter, deadline)
        output = _output(flags.output, service, len(applied))
        draw(service, flags.address, {"prompt": flags.prompt}, output, deadline, reporter)


def _apply(
    session: Session, objects: list[Object], flags: Up, *, dry_run: bool = False
) -> list[Applied]:
    return [
        apply_object(session.cluster, item, dry_run=dry_run, force=flags.force_conflicts)
        for item in objects
    ]


def _tell(applied: list[Applied], reporter: Reporter) -> None:
    for one in applied:
        reporter.finding("ok", f"{title(one.item)} {one.outcome}")


def _output(path: Path, service: Object, count: int) -> Path:
    """Several services do not overwrite each other's picture."""
    return path if count == 1 else path.with_stem(f"{path.stem}-{name_of(service)}")
