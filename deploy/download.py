"""Follow the download Job to its end: show its log, or explain why there is none."""

from __future__ import annotations

from dataclasses import replace

from rich.progress import Progress, TaskID

from deploy.cluster import Cluster
from deploy.console import Reporter
from deploy.errors import DownloadError, RefusedError, UnreachableError
from deploy.explain import Snapshot, explain_job
from deploy.explain.snapshot import condition, event_mark
from deploy.objects import Object, dig, name_of, title
from deploy.observe import observe_with_retries
from deploy.progress_log import LogLine, parse_line
from deploy.waits import Deadline, Waits

_LOOK_SECONDS = 5.0
# How long a Job that was just created may look broken before that is reported.
_GRACE_SECONDS = 5.0
# The downloader writes a line every few seconds; a stream this silent is dead.
_QUIET_SECONDS = 60.0


def follow_download(cluster: Cluster, job: Object, reporter: Reporter, deadline: Deadline) -> None:
    """Return once the Job is complete.

    Raises:
        DownloadError: it failed or was deleted.
        NotReadyError: the time is up.
    """
    follower = _Follower(cluster, reporter)
    waits = Waits(reporter, deadline.share(_GRACE_SECONDS))
    known: frozenset[str] | None = None
    while True:
        seen = observe_with_retries(cluster, job, waits, deadline)
        if seen is None:
            raise DownloadError(
                f"{title(job)} no longer exists: it was deleted, or its TTL expired"
            )
        if condition(seen.item, "Complete").get("status") == "True":
            reporter.finding("ok", f"{title(job)} is complete")
            return
        if known is None:
            known = frozenset(map(event_mark, seen.events))
        explanation = explain_job(replace(seen, known=known))
        if explanation and explanation.fatal:
            raise DownloadError(str(explanation))
        deadline.check(f"{title(job)} is not complete", explanation)
        if follower.follow(seen, deadline):
            continue
        if explanation:
            waits.report(explanation)
        cluster.wait_for_change(seen.item, deadline.at_most(waits.at_most(_LOOK_SECONDS)))


class _Follower:
    """Shows each line of a container's log once, however often the stream is cut."""

    def __init__(self, cluster: Cluster, reporter: Reporter) -> None:
        self._cluster = cluster
        self._reporter = reporter
        self._shown: dict[str, int] = {}
        self._done: set[str] = set()

    def follow(self, seen: Snapshot, deadline: Deadline) -> bool:
        """Show new lines of the containers that have started; return whether there were any."""
        news = False
        for pod in seen.pods:
            for status in dig(pod, "status", "containerStatuses") or ():
                state = status.get("state") or {}
                key = f"{name_of(pod)}/{status['name']}/{status.get('restartCount', 0)}"
                if key in self._done or not ("running" in state or "terminated" in state):
                    continue
                news |= self._show(key, name_of(pod), str(status["name"]), deadline)
                if "terminated" in state:
                    self._done.add(key)
        return news

    def _show(self, key: str, pod: str, container: str, deadline: Deadline) -> bool:
        """Show the log until it ends, is silent or the time is up; return if lines were new."""
        before = self._shown.get(key, 0)
        quiet = deadline.at_most(_QUIET_SECONDS)
        try:
            with self._reporter.bars() as progress:
                bars = _Bars(progress, self._reporter)
                lines = self._cluster.log(pod, container, follow=True, quiet=quiet)
                for number, line in enumerate(lines, start=1):
                    if number > before:
                        bars.show(parse_line(line))
                        self._shown[key] = number
                    if deadline.is_over:
                        break
        except (RefusedError, UnreachableError):
            # The container is still starting, or its pod no longer exists.
            return False
        return self._shown.get(key, 0) > before


class _Bars:
    """A bar for each model on a terminal, the plain lines elsewhere."""

    def __init__(self, progress: Progress, reporter: Reporter) -> None:
        self._progress = progress
        self._reporter = reporter
        self._tasks: dict[str, TaskID] = {}

    def show(self, line: LogLine) -> None:
        """Update a bar, or print the message above the bars."""
        if not line.is_progress or not self._reporter.is_terminal:
            self._reporter.say(f"      {line.message}", style="dim")
            return
        if line.model not in self._tasks:
            self._tasks[line.model] = self._progress.add_task(line.model, left="")
        self._progress.update(
            self._tasks[line.model],
            completed=line.done_bytes,
            total=line.total_bytes,
            left=line.left,
        )
