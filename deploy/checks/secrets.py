"""Secrets: each that our pods read exists, is one of our objects, or is optional."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.checks.finding import Finding
from deploy.cluster import Cluster
from deploy.objects import Object, dig, name_of, of_kind
from deploy.workload import SecretUse, secrets_used

TITLE = "secrets"


def check(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """Reads only the names of the keys."""
    ours = {name_of(item): item for item in of_kind(objects, "Secret")}
    for use in dict.fromkeys(secrets_used(objects)):
        found = cluster.get("v1", "Secret", use.secret)
        yield _judge(use, found, ours.get(use.secret), cluster.namespace)


def _judge(use: SecretUse, found: Object | None, own: Object | None, namespace: str) -> Finding:
    keys = {
        *(dig(found, "data") or {}),
        *(dig(own, "data") or {}),
        *(dig(own, "stringData") or {}),
    }
    what = f"secret {use.secret!r}"
    if use.key in keys or (not use.key and (found or own)):
        return Finding("ok", f"{what} exists{f' with {use.key!r}' if use.key else ''}")
    fill = (
        f"Add it: kubectl --namespace {namespace} create secret generic {use.secret} "
        f"--from-file={use.key or 'token'}=/dev/stdin --dry-run=client -o yaml "
        "| kubectl apply --server-side -f -"
    )
    if use.optional:
        return Finding(
            "ok",
            f"{what} has no {use.key!r}: the download is anonymous, enough for public models",
        )
    state = f"has no key {use.key!r}" if found or own else "does not exist"
    return Finding("fail", f"{what} {state}, and {use.user} needs it", fill)
