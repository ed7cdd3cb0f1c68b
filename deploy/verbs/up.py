"""``up``: check, apply, follow the download, wait for the service, request a picture."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from deploy.apply import Applied, Applier
from deploy.console import Reporter
from deploy.download import follow_download
from deploy.endpoint import read_key
from deploy.errors import UsageError
from deploy.objects import Object, name_of, of_kind, title
from deploy.readiness import wait_until_ready
from deploy.session import Session
from deploy.settings import Up, seconds_of
from deploy.verbs.doctor import check_before
from deploy.verbs.predict import draw
from deploy.waits import Deadline
from deploy.workload import jobs, requires_key, rollouts, services


def run(flags: Up, reporter: Reporter) -> None:
    """Safe to repeat: what is already as it should be does not change."""
    deadline = Deadline(seconds_of(flags.timeout))
    session = Session.open(flags, flags.folder)
    reporter.say(f"deploying {flags.folder} to namespace {session.cluster.namespace}")
    check_before(session, flags.skip, reporter)
    if flags.dry_run:
        _show(session, flags, reporter, deadline)
        return
    # The cluster validates all objects before the first change.
    if not of_kind(session.objects, "Namespace"):
        validator = _validator(session, flags, reporter, deadline)
        for item in session.objects:
            validator.apply(item)

    _check_key(flags, session)
    # A predictor without weights would hold a GPU and use up its progress deadline.
    applier = Applier(session.cluster, reporter, deadline, flags.force_conflicts)
    serving = services(session.objects)
    others = [_apply(applier, item) for item in session.objects if item not in serving]
    for job in jobs(session.objects):
        follow_download(session.cluster, job, reporter, deadline)
    applied = [_apply(applier, item) for item in serving]
    for one in applied:
        service = wait_until_ready(session.cluster, one, reporter, deadline)
        output = _output(flags.output, service, len(applied))
        body = {"prompt": flags.prompt}
        draw(service, flags.address, body, output, deadline, reporter, flags.api_key_file)
    for one in others:
        if rollouts([one.item]):
            wait_until_ready(session.cluster, one, reporter, deadline)


def _validator(session: Session, flags: Up, reporter: Reporter, deadline: Deadline) -> Applier:
    return Applier(session.cluster, reporter, deadline, flags.force_conflicts, dry_run=True)


def _show(session: Session, flags: Up, reporter: Reporter, deadline: Deadline) -> None:
    """Print what would happen to each object, with a diff of the fields that change."""
    validator = _validator(session, flags, reporter, deadline)
    counts: Counter[str] = Counter()
    new_namespace = False
    for item in session.objects:
        if new_namespace:
            # The API server refuses even a dry run in a namespace that does not exist.
            reporter.say(f"{title(item)} created (dry run, not validated: its namespace is new)")
            counts["created"] += 1
            continue
        one = validator.apply(item)
        new_namespace |= one.outcome == "created" and _is_target(item, session)
        counts[one.outcome] += 1
        reporter.say(f"{title(item)} {one.outcome} (dry run)")
        reporter.diff(one.diff)
    summary = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    reporter.say(f"\n{summary}. Nothing was changed.")


def _is_target(item: Object, session: Session) -> bool:
    return item["kind"] == "Namespace" and name_of(item) == session.cluster.namespace


def _check_key(flags: Up, session: Session) -> None:
    """Find a missing key before the download, not after it.

    Raises:
        UsageError: a predictor requires a key, and there is none or its file cannot be read.
    """
    closed = [name_of(one) for one in services(session.objects) if requires_key(one)]
    if closed and flags.api_key_file is None:
        raise UsageError(
            f"{closed[0]} requires a key for its first picture: pass a file that contains one "
            "with --api-key-file"
        )
    read_key(flags.api_key_file)


def _apply(applier: Applier, item: Object) -> Applied:
    applied = applier.apply(item)
    applier.reporter.finding("ok", f"{title(item)} {applied.outcome}")
    return applied


def _output(path: Path, service: Object, count: int) -> Path:
    """Several services must not overwrite each other's picture."""
    return path if count == 1 else path.with_stem(f"{path.stem}-{name_of(service)}")
