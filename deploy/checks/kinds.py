"""The cluster knows every kind that the folder holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.checks.finding import Finding
from deploy.cluster import Cluster
from deploy.explain import explain_refusal
from deploy.objects import Object

TITLE = "kinds"


def check(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Finding]:
    """A kind whose CRD is missing fails, KServe's own among them."""
    kinds = dict.fromkeys((item["apiVersion"], item["kind"]) for item in objects)
    unknown = [(version, kind) for version, kind in kinds if not cluster.knows(version, kind)]
    for version, kind in unknown:
        explanation = explain_refusal(f'no matches for kind "{kind}" in version "{version}"')
        assert explanation
        yield Finding("fail", explanation.reason, explanation.advice)
    if not unknown:
        yield Finding("ok", f"the cluster knows all {len(kinds)} kinds of objects")
