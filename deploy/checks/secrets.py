"""Secrets: each that our pods read exists, is one of our objects, or is optional."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.checks.finding import Finding
from deploy.cluster import Cluster
from deploy.dependencies import PULL_KEY, TLS_KEY, DataUse, data_used
from deploy.objects import Object, dig, name_of, of_kind

TITLE = "secrets"


def check(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """Reads only the names of the keys."""
    ours = {name_of(item): item for item in of_kind(objects, "Secret")}
    for use in (one for one in data_used(objects) if one.kind == "Secret"):
        found = cluster.get("v1", "Secret", use.name)
        yield _judge(use, found, ours.get(use.name), cluster.namespace)


def _judge(use: DataUse, found: Object | None, own: Object | None, namespace: str) -> Finding:
    keys = {
        *(dig(found, "data") or {}),
        *(dig(own, "data") or {}),
        *(dig(own, "stringData") or {}),
    }
    what = f"secret {use.name!r}"
    # A pull secret of the older type has another key.
    is_there = use.key in keys or (use.key == PULL_KEY and ".dockercfg" in keys)
    if is_there or (not use.key and (found or own)):
        return Finding("ok", f"{what} exists{f' with {use.key!r}' if use.key else ''}")
    if use.optional:
        return Finding(
            "ok",
            f"{what} has no {use.key!r}: the download is anonymous, enough for public models",
        )
    state = f"has no key {use.key!r}" if found or own else "does not exist"
    return Finding("fail", f"{what} {state}, and {use.user} needs it", _fill(use, namespace))


def _fill(use: DataUse, namespace: str) -> str:
    """The command that creates the Secret, or adds the key to it."""
    create = f"kubectl --namespace {namespace} create secret"
    if use.key == PULL_KEY:
        command = (
            f"{create} docker-registry {use.name} --docker-server=HOST --docker-username=USER "
            "--docker-password=PASSWORD"
        )
    elif use.key == TLS_KEY:
        command = f"{create} tls {use.name} --cert=FILE --key=FILE"
    else:
        command = f"{create} generic {use.name} --from-file={use.key or 'token'}=/dev/stdin"
    return f"Add it: {command} --dry-run=client -o yaml | kubectl apply --server-side -f -"
