"""Server-side apply of our objects, and what the API's refusals mean."""

from __future__ import annotations

import copy
import re
import time
from dataclasses import dataclass
from typing import Literal

from deploy.cluster import FIELD_MANAGER, Cluster
from deploy.errors import ConflictError, ForbiddenError, RefusedError, UsageError
from deploy.explain import explain_refusal
from deploy.explain.snapshot import condition
from deploy.objects import Object, dig, name_of, title

Outcome = Literal["created", "configured", "unchanged", "replaced"]
# What the server writes by itself, in a dry run too.
_SERVER_FIELDS = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp")
_GONE_SECONDS = 90.0


@dataclass(frozen=True)
class Applied:
    """What became of one object; ``before`` is how it was, ``item`` how it is."""

    outcome: Outcome
    item: Object
    before: Object | None

    @property
    def changed(self) -> bool:
        """Whether the cluster has to do something about it."""
        return self.outcome != "unchanged"


def place(item: Object, namespace: str) -> Object:
    """The object for ``namespace``.

    Raises:
        UsageError: it names another one.
    """
    named = dig(item, "metadata", "namespace")
    if named not in (None, namespace):
        raise UsageError(
            f"{title(item)} names the namespace {named!r}, and it is to go to {namespace!r}: "
            f"say --namespace {named}"
        )
    return item


def apply_object(
    cluster: Cluster, item: Object, *, dry_run: bool = False, force: bool = False
) -> Applied:
    """Create or change one object; a Job that cannot be changed, or has failed, is made anew.

    Raises:
        ConflictError, ForbiddenError, RefusedError: with what it means and what to do.
    """
    before = cluster.get(item["apiVersion"], item["kind"], name_of(item))
    if before and dig(before, "metadata", "deletionTimestamp") and not dry_run:
        _wait_until_gone(cluster, item)
        before = None
    if _is_failed_job(before):
        return _replace(cluster, item, before, dry_run=dry_run)
    try:
        after = cluster.apply(item, dry_run=dry_run, force=force)
    except RefusedError as error:
        if item["kind"] == "Job" and before and "field is immutable" in str(error):
            return _replace(cluster, item, before, dry_run=dry_run)
        raise explained(error, item) from None
    if before is None:
        return Applied("created", after, None)
    same = _content(before) == _content(after)
    return Applied("unchanged" if same else "configured", after, before)


def explained(error: RefusedError, item: Object) -> RefusedError:
    """The same error with a text for the operator."""
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
    told = "; ".join(f"{owner!r} has set {', '.join(names)}" for owner, names in fields.items())
    return (
        f"{told or error}.\nIf that is how you deploy, go on with it (Helm: `helm upgrade`). "
        f"To let {FIELD_MANAGER} take these fields over, say --force-conflicts."
    )


def _is_failed_job(item: Object | None) -> bool:
    return bool(
        item and item["kind"] == "Job" and condition(item, "Failed").get("status") == "True"
    )


def _replace(cluster: Cluster, item: Object, before: Object | None, *, dry_run: bool) -> Applied:
    """Delete the Job and make it anew: a download goes on from what is on the volume."""
    cluster.delete(item, dry_run=dry_run)
    if dry_run:
        return Applied("replaced", item, before)
    _wait_until_gone(cluster, item)
    try:
        return Applied("replaced", cluster.apply(item), before)
    except RefusedError as error:
        raise explained(error, item) from None


def _wait_until_gone(cluster: Cluster, item: Object) -> None:
    deadline = time.monotonic() + _GONE_SECONDS
    while found := cluster.get(item["apiVersion"], item["kind"], name_of(item)):
        if time.monotonic() > deadline:
            raise RefusedError(
                f"{title(item)} is being deleted and does not go; see its finalizers"
            )
        cluster.wait_for_change(found, 2)


def _content(item: Object) -> Object:
    content = copy.deepcopy(item)
    content.pop("status", None)
    for field in _SERVER_FIELDS:
        content["metadata"].pop(field, None)
    return content
