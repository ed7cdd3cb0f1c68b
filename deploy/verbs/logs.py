"""``logs``: print the log of the download or the predictor."""

from __future__ import annotations

from deploy.console import Reporter
from deploy.errors import NotReadyError, UsageError
from deploy.explain import Snapshot, explain
from deploy.objects import Object, dig, name_of, title
from deploy.observe import observe
from deploy.session import Session
from deploy.settings import Logs
from deploy.workload import MODEL_CONTAINER, jobs

_QUIET_SECONDS = 3600.0


def run(flags: Logs, reporter: Reporter) -> None:
    """Print the newest pod's log.

    Raises:
        NotReadyError: no container has started yet; says why.
    """
    session = Session.open(flags, flags.folder)
    item = _job(session) if flags.what == "download" else session.service(flags.service)
    seen = observe(session.cluster, item)
    found = _container(seen) if seen else None
    if seen is None or found is None:
        raise NotReadyError(f"{title(item)} has no log yet: {_why(item, seen)}")
    pod, container = found
    for line in session.cluster.log(pod, container, follow=flags.follow, quiet=_QUIET_SECONDS):
        reporter.say(line)


def _job(session: Session) -> Object:
    found = jobs(session.objects)
    if not found:
        raise UsageError("the folder has no download Job")
    return found[0]


def _container(seen: Snapshot) -> tuple[str, str] | None:
    for pod in seen.pods:
        statuses = dig(pod, "status", "containerStatuses") or ()
        started = [one for one in statuses if "waiting" not in (one.get("state") or {})]
        # A Knative pod also has a queue-proxy.
        started.sort(key=lambda one: one["name"] != MODEL_CONTAINER)
        if started:
            return name_of(pod), str(started[0]["name"])
    return None


def _why(item: Object, seen: Snapshot | None) -> str:
    if seen is None:
        return "it is not deployed; run `up`"
    return str(explain(seen) or "it has no pod right now; a request starts one")
