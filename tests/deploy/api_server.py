"""A fake cluster for tests: objects, faults and controllers, served by ``api_handler``.

Faults are data: refusals, denied verbs, stored objects and events.
"""

from __future__ import annotations

import copy
import ssl
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.api_handler import ApiHandler
from tests.deploy.apply_semantics import Owners

Object = dict[str, Any]
Key = tuple[str, str, str]  # kind, namespace ("" for the cluster's), name

# group/version -> kind -> (plural, namespaced)
CORE: dict[str, dict[str, tuple[str, bool]]] = {
    "v1": {
        "ConfigMap": ("configmaps", True),
        "Event": ("events", True),
        "LimitRange": ("limitranges", True),
        "Namespace": ("namespaces", False),
        "Node": ("nodes", False),
        "PersistentVolume": ("persistentvolumes", False),
        "PersistentVolumeClaim": ("persistentvolumeclaims", True),
        "Pod": ("pods", True),
        "ResourceQuota": ("resourcequotas", True),
        "Secret": ("secrets", True),
        "Service": ("services", True),
        "ServiceAccount": ("serviceaccounts", True),
    },
    "apps/v1": {
        "Deployment": ("deployments", True),
        "ReplicaSet": ("replicasets", True),
        "StatefulSet": ("statefulsets", True),
    },
    "authorization.k8s.io/v1": {"SelfSubjectAccessReview": ("selfsubjectaccessreviews", False)},
    "batch/v1": {"Job": ("jobs", True)},
    "networking.k8s.io/v1": {
        "Ingress": ("ingresses", True),
        "IngressClass": ("ingressclasses", False),
        "NetworkPolicy": ("networkpolicies", True),
    },
    "node.k8s.io/v1": {"RuntimeClass": ("runtimeclasses", False)},
    "policy/v1": {"PodDisruptionBudget": ("poddisruptionbudgets", True)},
    "scheduling.k8s.io/v1": {"PriorityClass": ("priorityclasses", False)},
    "storage.k8s.io/v1": {"StorageClass": ("storageclasses", False)},
}
DEVICES = {
    "resource.k8s.io/v1": {
        "ResourceClaim": ("resourceclaims", True),
        "ResourceClaimTemplate": ("resourceclaimtemplates", True),
    }
}
GATEWAY = {
    "gateway.networking.k8s.io/v1": {
        "Gateway": ("gateways", True),
        "HTTPRoute": ("httproutes", True),
    }
}
KUEUE = {"kueue.x-k8s.io/v1beta1": {"LocalQueue": ("localqueues", True)}}
SNAPSHOTS = {"snapshot.storage.k8s.io/v1": {"VolumeSnapshot": ("volumesnapshots", True)}}
KSERVE = {"serving.kserve.io/v1beta1": {"InferenceService": ("inferenceservices", True)}}
KNATIVE = {
    "serving.knative.dev/v1": {"Service": ("services", True), "Revision": ("revisions", True)}
}


@dataclass
class ApiServer:
    """The state of the cluster and all requests to it."""

    kinds: dict[str, dict[str, tuple[str, bool]]]
    objects: dict[Key, Object] = field(default_factory=dict)
    owners: dict[Key, Owners] = field(default_factory=dict)
    logs: dict[str, Callable[[], Iterable[str]]] = field(default_factory=dict)
    # By kind: called after an object is applied, in place of its controller.
    controllers: dict[str, Callable[[ApiServer, Object], None]] = field(default_factory=dict)
    # kind -> (status, message): the refusal of a webhook or the quota for an apply of that kind.
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    denied: set[tuple[str, str]] = field(default_factory=set)  # (verb, plural)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    token: str = "a-token-of-the-test"
    # The number of further requests that fail as if the server were restarting.
    failures: int = 0
    version: int = 100
    git_version: str = "v1.32.4"
    changed: threading.Condition = field(default_factory=threading.Condition)

    def start(self, folder: Path, tls: ssl.SSLContext | None = None) -> Path:
        """Serve on a free port; return a kubeconfig that trusts any certificate."""
        handler = type("Handler", (ApiHandler,), {"api": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        if tls:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        kubeconfig = folder / "kubeconfig"
        url = f"{'https' if tls else 'http'}://127.0.0.1:{self._http.server_address[1]}"
        kubeconfig.write_text(yaml.safe_dump(_kubeconfig(url, self.token)))
        return kubeconfig

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def put(self, item: Object, manager: str = "controller") -> Object:
        """Store an object as a controller would."""
        with self.changed:
            item = copy.deepcopy(item)
            self.version += 1
            item["metadata"]["resourceVersion"] = str(self.version)
            item["metadata"].setdefault("uid", f"uid-{self.version}")
            if item["kind"] == "Event":
                about = item["involvedObject"]
                found = self.find(about["kind"], about["name"]) or {"metadata": {}}
                about.setdefault("uid", found["metadata"].get("uid"))
            item["metadata"].setdefault(
                "creationTimestamp", f"2026-11-21T10:00:{self.version % 60:02}Z"
            )
            self.objects[self.key(item)] = item
            self.changed.notify_all()
            return item

    def update(self, kind: str, name: str, **fields: Any) -> None:
        """Set top-level fields of an existing object, for example the status."""
        item = self.find(kind, name)
        assert item, (kind, name)
        self.put({**item, **copy.deepcopy(fields)})

    def find(self, kind: str, name: str) -> Object | None:
        return next((v for k, v in self.objects.items() if (k[0], k[2]) == (kind, name)), None)

    def remove(self, kind: str, name: str) -> Object | None:
        with self.changed:
            item = self.find(kind, name)
            if item:
                del self.objects[self.key(item)]
                self.owners.pop(self.key(item), None)
                self.changed.notify_all()
            return item

    def requested(self, method: str) -> list[str]:
        """The paths requested with ``method``, except in dry runs."""
        return [p for m, p, query in self.requests if m == method and "dryRun" not in query]

    def resource(self, kind: str) -> tuple[str, bool]:
        return next(kinds[kind] for kinds in self.kinds.values() if kind in kinds)

    def key(self, item: Object) -> Key:
        _, namespaced = self.resource(item["kind"])
        place = item["metadata"].get("namespace", "default") if namespaced else ""
        return item["kind"], place, item["metadata"]["name"]


def _kubeconfig(url: str, token: str) -> Object:
    cluster = {"server": url, "insecure-skip-tls-verify": url.startswith("https")}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "jane", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "jane"}}],
    }
