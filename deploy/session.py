"""What every verb starts with: the folder's objects and a connection to the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploy.cluster import Cluster
from deploy.errors import UsageError
from deploy.objects import Object, dig, load_objects, name_of, title
from deploy.settings import ClusterFlags
from deploy.workload import services


@dataclass(frozen=True)
class Session:
    """The objects in the order of application, and the cluster."""

    cluster: Cluster
    objects: list[Object]

    @classmethod
    def open(cls, flags: ClusterFlags, folder: Path) -> Session:
        """Read the folder before the first request to the cluster."""
        objects = load_objects(folder)
        cluster = Cluster.connect(flags.kubeconfig, flags.context, flags.namespace)
        return cls(cluster, [_place(item, cluster.namespace) for item in objects])

    def service(self, name: str | None) -> Object:
        """The InferenceService of that name, or the only one.

        Raises:
            UsageError: there is none, or several and no name.
        """
        found = [item for item in services(self.objects) if name in (None, name_of(item))]
        if len(found) == 1:
            return found[0]
        names = ", ".join(map(name_of, services(self.objects))) or "none"
        raise UsageError(
            f"--service: must be one InferenceService of the folder; available: {names}"
        )


def _place(item: Object, namespace: str) -> Object:
    """The object, placed in ``namespace``.

    Raises:
        UsageError: it has another namespace.
    """
    named = dig(item, "metadata", "namespace")
    if named not in (None, namespace):
        raise UsageError(
            f"{title(item)} has the namespace {named!r}, but the target is {namespace!r}: "
            f"use --namespace {named}"
        )
    return item
