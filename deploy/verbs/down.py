"""``down``: delete our objects, and the weights only on confirmation."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.console import Reporter
from deploy.errors import NotConfirmedError
from deploy.objects import Object, dig, name_of, of_kind, title
from deploy.session import Session
from deploy.settings import Down

# A namespace contains the weights, and possibly the objects of others.
_LEFT = ("Namespace",)
_COMPONENT = "app.kubernetes.io/component"


def run(flags: Down, reporter: Reporter) -> None:
    """Delete in the reverse order of application, so that nothing loses what it still uses.

    Raises:
        NotConfirmedError: it would delete the weights and cannot ask; nothing was deleted.
    """
    session = Session.open(flags, flags.folder)
    claims = of_kind(session.objects, "PersistentVolumeClaim")
    deleting = False
    kept = [] if _may_delete(session, claims, flags, reporter) else claims
    for item in reversed(session.objects):
        if item in kept or item["kind"] in _LEFT:
            reporter.say(f"{title(item)} is kept")
        elif session.cluster.delete(item, dry_run=flags.dry_run):
            what = "would be deleted (dry run)" if flags.dry_run else "is being deleted"
            reporter.say(f"{title(item)} {what}")
            deleting = not flags.dry_run
        else:
            reporter.say(f"{title(item)} does not exist")
    if deleting:
        reporter.say(
            "The cluster deletes them in the background. A predictor first answers its open "
            "requests, which may take minutes."
        )


def _may_delete(
    session: Session, claims: Sequence[Object], flags: Down, reporter: Reporter
) -> bool:
    if flags.keep_weights or not claims:
        return False
    found = [session.cluster.get("v1", "PersistentVolumeClaim", name_of(one)) for one in claims]
    there = [one for one in found if one]
    if flags.yes or flags.dry_run or not there:
        return True
    jobs = any(dig(one, "metadata", "labels", _COMPONENT) == "jobs" for one in claims)
    what = "weights, and the jobs with their pictures," if jobs else "weights"
    if not reporter.is_terminal:
        raise NotConfirmedError(
            f"this deletes the downloaded {what.rstrip(',')}. Use --yes to confirm, or "
            "--keep-weights to keep the claims. Nothing was deleted."
        )
    names = ", ".join(
        f"{name_of(one)} ({dig(one, 'status', 'capacity', 'storage') or 'size unknown'})"
        for one in there
    )
    return reporter.confirm(
        f"Delete the {what} on {names} too? You would have to download the weights again."
    )
