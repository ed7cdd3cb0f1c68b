"""Follow the download Job to its end: its log becomes a bar, its silence an explanation."""

from __future__ import annotations

from rich.progress import Progress, TaskID

from deploy.cluster import Cluster
from deploy.console import Reporter, Waits
from deploy.deadline import Deadline
from deploy.errors import DownloadError, RefusedError
from deploy.explain import Snapshot, explain_job
from deploy.explain.snapshot import condition
from deploy.looking import look
from deploy.objects import Object, dig, name_of, title
from deploy.progress_log import LogLine, parse_line

_LOOK_SECONDS = 5.0


def follow_download(cluster: Cluster, job: Object, reporter: Reporter, deadline: Deadline) -> None:
    """Return once the Job is complete.

    Raises:
        DownloadError: it failed, or somebody deleted it.
        NotReadyError: the time is up.
    """
    follower, waits = _Follower(cluster, reporter), Waits(reporter)
    while True:
        seen = look(cluster, job)
        if seen is None:
            raise DownloadError(f"{title(job)} is gone: somebody deleted it, or its TTL ran out")
        if condition(seen.item, "Complete").get("status") == "True":
            reporter.finding("ok", f"{title(job)} is complete")
            return
        explanation = explain_job(seen)
        if explanation and explanation.fatal:
            raise DownloadError(str(explanation))
        deadline.check(f"{title(job)} is not complete", explanation)
        if follower.follow(seen, deadline):
            continue
        if explanation:
            waits.tell(explanation)
        cluster.wait_for_change(seen.item, deadline.at_most(_LOOK_SECONDS))


class _Follower:
    """Reads each container's log once, from its beginning."""

    def __init__(self, cluster: Cluster, reporter: Reporter) -> None:
        self._cluster = cluster
        self._reporter = reporter
        self._read: set[str] = set()

    def follow(self, seen: Snapshot, deadline: Deadline) -> bool:
        """Read the log of the newest pod that has begun and was not read; whether there was one."""
        for pod in seen.pods:
            for status in dig(pod, "status", "containerStatuses") or ():
                state = status.get("state") or {}
                key = f"{name_of(pod)}/{status['name']}/{status.get('restartCount', 0)}"
                if key in self._read or not ("running" in state or "terminated" in state):
                    continue
                shown = self._show(name_of(pod), str(status["name"]), deadline)
                if shown:
                    self._read.add(key)
                return shown
        return False

    def _show(self, pod: str, container: str, deadline: Deadline) -> bool:
        """Show the log until the container ends; False where the time ended first."""
        with self._reporter.bars() as progress:
            bars = _Bars(progress, self._reporter)
            try:
                quiet = deadline.at_most(3600)
                for line in self._cluster.log(pod, container, follow=True, quiet=quiet):
                    bars.show(parse_line(line))
                    if deadline.is_over:
                        return False
            except RefusedError:
                # The container is only just being started, or its pod is already gone.
                return False
        return True


class _Bars:
    """A bar for each model on a terminal; elsewhere the lines as they are."""

    def __init__(self, progress: Progress, reporter: Reporter) -> None:
        self._progress = progress
        self._reporter = reporter
        self._tasks: dict[str, TaskID] = {}

    def show(self, line: LogLine) -> None:
        """Move a bar, or print the message above the bars."""
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
