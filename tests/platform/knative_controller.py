"""Knative's controller: the pod of a revision, including queue-proxy's container.

Source: knative/serving 1.21, pkg/reconciler/revision/resources, `deploy.go` and `queue.go`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from .configuration import stock
from .knative_webhook import REVISION_FIELDS

Object = dict[str, Any]
QUEUE_PROXY = "queue-proxy"
# The time that queue-proxy waits after the last request before the predictor gets SIGTERM
# (`drainSleepDuration`, pkg/queue/sharedmain).
QUIET_SECONDS = 30
_PREFIX = "queue.sidecar.serving.knative.dev"
# Enabled by `queueproxy.resource-defaults`; the CPU request is always set.
_RESOURCE_DEFAULTS = {
    ("requests", "memory"): "400Mi",
    ("limits", "cpu"): "1000m",
    ("limits", "memory"): "800Mi",
}


def pod_of(template: Object, flags: Mapping[str, str]) -> Object:
    """The pod of a revision, before the webhooks for pods."""
    spec = copy.deepcopy(template["spec"])
    pod = {key: value for key, value in spec.items() if key not in REVISION_FIELDS}
    (container,) = pod["containers"]
    user_port = container["ports"][0]["containerPort"]
    # Queue-proxy runs the readiness probe, and the kubelet probes queue-proxy.
    readiness = container.pop("readinessProbe")
    container["ports"] = [{"name": "user-port", "containerPort": user_port}]
    container["env"] += [
        {"name": "PORT", "value": str(user_port)},
        *({"name": name, "value": "stable-diffusion"} for name in ("K_REVISION", "K_SERVICE")),
        {"name": "K_CONFIGURATION", "value": "stable-diffusion"},
    ]
    hook = {"httpGet": {"port": 8022, "path": "/wait-for-drain"}}
    container["lifecycle"] = {"preStop": hook}
    pod["containers"].append(_queue_proxy(template, readiness, flags))
    # The request timeout is also the grace period.
    pod["terminationGracePeriodSeconds"] = spec["timeoutSeconds"]
    return pod


def queue_proxy_resources(annotations: Mapping[str, str], flags: Mapping[str, str]) -> Object:
    """The resources of queue-proxy: annotations override `config-deployment` and the code."""
    resources: Object = {}
    if flags["queueproxy.resource-defaults"] == "enabled":
        for (section, name), quantity in _RESOURCE_DEFAULTS.items():
            resources.setdefault(section, {})[name] = quantity
    requests = resources.setdefault("requests", {})
    requests["cpu"] = stock("config-deployment")["queue-sidecar-cpu-request"]
    for section in ("request", "limit"):
        for name in ("cpu", "memory", "ephemeral-storage"):
            if quantity := annotations.get(f"{_PREFIX}/{name}-resource-{section}"):
                resources.setdefault(f"{section}s", {})[name] = quantity
    return resources


def _queue_proxy(template: Object, readiness: Object, flags: Mapping[str, str]) -> Object:
    handlers = {"httpGet", "tcpSocket", "exec", "grpc"}
    probe = {key: value for key, value in readiness.items() if key not in handlers}
    ports = {"http-queueadm": 8022, "http-autometric": 9090, "http-usermetric": 9091}
    return {
        "name": QUEUE_PROXY,
        "image": "registry.example.com/knative/queue:v1.21.0",
        "resources": queue_proxy_resources(template["metadata"]["annotations"], flags),
        "ports": [
            {"name": name, "containerPort": port}
            for name, port in {**ports, "queue-port": 8012, "https-port": 8112}.items()
        ],
        "readinessProbe": probe | {"httpGet": {"port": 8012}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
