"""Apply our objects with server-side apply, and explain the API's refusals."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from deploy.cluster import FIELD_MANAGER, Cluster
from deploy.console import Reporter
from deploy.diff import content, difference, projected
from deploy.errors import ConflictError, ForbiddenError, RefusedError
from deploy.explain import Explanation, explain_refusal
from deploy.explain.snapshot import condition
from deploy.objects import Object, dig, name_of, title
from deploy.waits import Deadline, Waits

Outcome = Literal["created", "configured", "unchanged", "replaced"]
_LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Applied:
    """The result for one object: ``before`` is its old state, ``item`` its new one."""

    outcome: Outcome
    item: Object
    before: Object | None

    @property
    def changed(self) -> bool:
        """Whether the cluster has to act on it."""
        return self.outcome != "unchanged"

    @property
    def diff(self) -> list[str]:
        """The lines of a unified diff of the fields that change; none for a new object."""
        if self.before is None:
            return []
        # The server returns no defaults for a Job that it would have to create again.
        replaced = self.outcome == "replaced"
        before = projected(self.before, self.item) if replaced else self.before
        return difference(before, self.item)


@dataclass(frozen=True)
class Applier:
    """Applies objects to one cluster; with ``dry_run`` the cluster only validates them."""

    cluster: Cluster
    reporter: Reporter
    deadline: Deadline
    force: bool = False
    dry_run: bool = False

    def apply(self, item: Object) -> Applied:
        """Create or change one object; replace a Job that has failed or that cannot be changed.

        Raises:
            ConflictError, ForbiddenError, RefusedError: with an explanation and what to do.
            NotReadyError: the time is up, and a former object of that name still exists.
        """
        before = self.cluster.get(item["apiVersion"], item["kind"], name_of(item))
        if before and dig(before, "metadata", "deletionTimestamp") and not self.dry_run:
            self._wait_until_gone(item)
            before = None
        if _is_failed_job(before):
            return self._replace(item, before)
        try:
            after = self.cluster.apply(item, dry_run=self.dry_run, force=self.force)
        except RefusedError as error:
            if item["kind"] == "Job" and before and "field is immutable" in str(error):
                return self._replace(item, before)
            raise explained(error, item) from None
        if before is None:
            return Applied("created", after, None)
        same = content(before) == content(after)
        return Applied("unchanged" if same else "configured", after, before)

    def _replace(self, item: Object, before: Object | None) -> Applied:
        """Delete the Job and create it again: a download resumes from what is on the volume."""
        self.cluster.delete(item, dry_run=self.dry_run)
        if self.dry_run:
            return Applied("replaced", item, before)
        self._wait_until_gone(item)
        try:
            return Applied("replaced", self.cluster.apply(item), before)
        except RefusedError as error:
            raise explained(error, item) from None

    def _wait_until_gone(self, item: Object) -> None:
        """Pods may take their whole grace period to end, and a service waits for its pods."""
        waits = Waits(self.reporter)
        while found := self.cluster.get(item["apiVersion"], item["kind"], name_of(item)):
            holders = ", ".join(dig(found, "metadata", "finalizers") or ())
            explanation = Explanation(
                f"The former {title(item)} is still being deleted"
                + (f" (finalizers: {holders})" if holders else "")
                + ". It is created again after that."
            )
            self.deadline.check(f"{title(item)} is not applied", explanation)
            waits.report(explanation)
            self.cluster.wait_for_change(found, self.deadline.at_most(_LOOK_SECONDS))


def explained(error: RefusedError, item: Object) -> RefusedError:
    """The same error with a message for the operator."""
    name = title(item)
    if isinstance(error, ConflictError):
        return ConflictError(f"{name}: {_conflict(error)}", error.status, error.causes)
    if isinstance(error, ForbiddenError):
        return ForbiddenError(
            f"{name}: {error}\nAsk an administrator for a Role that allows it.", error.status
        )
    explanation = explain_refusal(str(error))
    return RefusedError(f"{name}: {explanation or error}", error.status, error.causes)


def _conflict(error: ConflictError) -> str:
    fields: dict[str, list[str]] = {}
    for cause in error.causes:
        manager = re.search(r'conflict with "([^"]+)"', str(cause.get("message")))
        fields.setdefault(manager[1] if manager else "another", []).append(str(cause.get("field")))
    owners = "; ".join(f"{owner!r} has set {', '.join(names)}" for owner, names in fields.items())
    return (
        f"{owners or error}.\nIf that is how you deploy, keep using it (Helm: `helm upgrade`). "
        f"To let {FIELD_MANAGER} take over these fields, use --force-conflicts."
    )


def _is_failed_job(item: Object | None) -> bool:
    return bool(
        item and item["kind"] == "Job" and condition(item, "Failed").get("status") == "True"
    )
