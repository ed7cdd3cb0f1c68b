"""Permissions: the namespace exists, and we have the permissions to deploy into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.checks.finding import Finding
from deploy.cluster import Cluster
from deploy.errors import ForbiddenError
from deploy.objects import Object, of_kind

TITLE = "permissions"
# Server-side apply is a PATCH; to create an object it needs the verb `create` as well.
_WRITES = ("create", "patch", "get")
_READS = (
    ("", "pods", "list"),
    ("", "pods/log", "get"),
    ("", "events", "list"),
    ("apps", "deployments", "list"),
    ("apps", "replicasets", "list"),
)
_KNATIVE_READS = (("serving.knative.dev", "revisions", "list"),)


def check(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """Check each kind and verb with a SelfSubjectAccessReview."""
    yield from _namespace(cluster, objects)
    missing = [
        f"{verb} {resource}{f'.{group}' if group else ''}"
        for group, resource in _resources(cluster, objects)
        for verb in _WRITES
        if not cluster.may(verb, group, resource)
    ]
    if missing:
        yield Finding(
            "fail",
            f"you may not {', '.join(missing)} in namespace {cluster.namespace}",
            "Ask an administrator for a Role with these verbs and resources.",
        )
    else:
        yield Finding("ok", f"you may apply every object in namespace {cluster.namespace}")
    knative = _KNATIVE_READS if cluster.knows("serving.knative.dev/v1", "Revision") else ()
    unread = [
        f"{verb} {name}"
        for group, name, verb in (*_READS, *knative)
        if not cluster.may(verb, group, name)
    ]
    if unread:
        yield Finding(
            "warn", f"you may not {', '.join(unread)}: the reasons for waiting will be less precise"
        )


def _namespace(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    try:
        found = cluster.get("v1", "Namespace", cluster.namespace)
    except ForbiddenError:
        return
    ours = [item["metadata"]["name"] for item in of_kind(objects, "Namespace")]
    if found is None and cluster.namespace not in ours:
        yield Finding(
            "fail",
            f"namespace {cluster.namespace!r} does not exist",
            f"Create it: kubectl create namespace {cluster.namespace}",
        )


def _resources(cluster: Cluster, objects: Sequence[Object]) -> list[tuple[str, str]]:
    kinds = dict.fromkeys((item["apiVersion"], item["kind"]) for item in objects)
    return [
        (version.rpartition("/")[0], cluster.plural(version, kind))
        for version, kind in kinds
        if cluster.knows(version, kind)
    ]
