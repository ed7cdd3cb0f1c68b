"""Objects and events as Kubernetes, KServe and Knative write them.

The messages follow the sources of the kubelet, the scheduler, the controllers and the webhooks, and
issues of kubernetes/kubernetes, kserve/kserve and knative/serving.
"""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]
SERVICE = "stable-diffusion"
JOB = "stable-diffusion-download"
CLAIM = "stable-diffusion-models"
POD = "stable-diffusion-predictor-00001-deployment-7c8c5f54f5-4h97n"
JOB_POD = "stable-diffusion-download-x7k2p"
IMAGE = "registry.example.com/team/stable-diffusion-predictor:0.1.0"
HOST = "stable-diffusion.default.example.com"


def condition(kind: str, status: str, reason: str = "", message: str = "") -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def event(kind: str, name: str, reason: str, message: str, type_: str = "Warning") -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{abs(hash((reason, message))):x}"},
        "involvedObject": {"kind": kind, "name": name},
        "reason": reason,
        "message": message,
        "type": type_,
        "lastTimestamp": "2026-11-21T10:05:00Z",
    }


def service(*conditions: Object, **status: Any) -> Object:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": SERVICE},
        "spec": {"predictor": {"containers": [{"name": "kserve-container", "image": IMAGE}]}},
        "status": {"conditions": list(conditions), **status},
    }


def ready_status(host: str = HOST, generation: int = 1) -> Object:
    revision = f"stable-diffusion-predictor-{generation:05}"
    return {
        "url": f"http://{host}",
        "deploymentMode": "Knative",
        "components": {
            "predictor": {
                "latestCreatedRevision": revision,
                "latestReadyRevision": revision,
            }
        },
        "conditions": [
            condition("IngressReady", "True"),
            condition("PredictorReady", "True"),
            condition("Ready", "True"),
        ],
    }


def pod(
    *,
    name: str = POD,
    phase: str = "Pending",
    scheduled: str | None = None,
    statuses: list[Object] | None = None,
    labels: Object | None = None,
    owner: Object | None = None,
) -> Object:
    """A pod; ``scheduled`` is the scheduler's message if it could not place the pod."""
    conditions = [
        condition("PodScheduled", "False", "Unschedulable", scheduled)
        if scheduled is not None
        else condition("PodScheduled", "True")
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": labels or {"serving.kserve.io/inferenceservice": SERVICE},
            "ownerReferences": [{"uid": owner["metadata"]["uid"]}] if owner else [],
        },
        "spec": {"volumes": [{"name": "m", "persistentVolumeClaim": {"claimName": CLAIM}}]},
        "status": {
            "phase": phase,
            "conditions": conditions,
            "containerStatuses": statuses or [],
        },
    }


def container(name: str = "kserve-container", *, ready: bool = False, **fields: Any) -> Object:
    return {"name": name, "image": IMAGE, "ready": ready, "restartCount": 0, "state": {}, **fields}


def waiting(reason: str, message: str = "", **fields: Any) -> Object:
    return container(state={"waiting": {"reason": reason, "message": message}}, **fields)


def terminated(code: int, message: str = "", reason: str = "Error") -> Object:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def revision(number: int = 1, *conditions: Object) -> Object:
    """A Knative Revision with the labels that KServe and Knative give it."""
    name = f"{SERVICE}-predictor-{number:05}"
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Revision",
        "metadata": {
            "name": name,
            "uid": f"uid-of-{name}",
            "generation": 1,
            "labels": {
                "serving.kserve.io/inferenceservice": SERVICE,
                "serving.knative.dev/configurationGeneration": str(number),
            },
        },
        "status": {"observedGeneration": 1, "conditions": list(conditions)},
    }


def deployment(*conditions: Object, generation: int = 1, observed: int = 1) -> Object:
    """The Deployment that KServe creates in Standard mode."""
    name = f"{SERVICE}-predictor"
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "uid": f"uid-of-{name}",
            "generation": generation,
            "labels": {"serving.kserve.io/inferenceservice": SERVICE},
        },
        "status": {"observedGeneration": observed, "conditions": list(conditions)},
    }


def replica_set(owner: Object, number: int = 1, *conditions: Object) -> Object:
    name = f"{owner['metadata']['name']}-{number}c8c5f54f5"
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": name,
            "uid": f"uid-of-{name}",
            "labels": {"serving.kserve.io/inferenceservice": SERVICE},
            "annotations": {"deployment.kubernetes.io/revision": str(number)},
            "ownerReferences": [{"kind": "Deployment", "uid": owner["metadata"]["uid"]}],
        },
        "status": {"conditions": list(conditions)},
    }


def claim(phase: str = "Pending") -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM},
        "spec": {"accessModes": ["ReadWriteMany"]},
        "status": {"phase": phase},
    }


def job(*conditions: Object) -> Object:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": JOB},
        "spec": {},
        "status": {"conditions": list(conditions)},
    }


def job_pod(code: int | None = None, message: str = "", phase: str | None = None) -> Object:
    """A pod of the download Job: running, or ended with ``code``."""
    state = {"running": {}} if code is None else terminated(code, message)
    return pod(
        name=JOB_POD,
        phase=phase or {None: "Running", 0: "Succeeded"}.get(code, "Failed"),
        statuses=[container("downloader", state=state, ready=code is None)],
        labels={"job-name": JOB},
    )


def failed_job(code: int) -> Object:
    return job(
        condition(
            "Failed",
            "True",
            "PodFailurePolicy",
            f"Container downloader for pod default/{JOB_POD} failed with exit code {code} "
            "matching FailJob rule at index 0",
        )
    )


def node(name: str = "gpu-1", *, gpus: int = 1, taints: list[Object] | None = None) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"taints": taints or []},
        "status": {"allocatable": {"cpu": "8", "nvidia.com/gpu": str(gpus)}},
    }


def storage_class(name: str, provisioner: str, *, default: bool = False) -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": name,
            "annotations": {
                "storageclass.kubernetes.io/is-default-class": "true" if default else "false"
            },
        },
        "provisioner": provisioner,
    }


def config_map(name: str, namespace: str, data: Object) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": data,
    }


def kserve_controller(version: str = "v0.21.0", available: int = 1) -> Object:
    image = f"kserve/kserve-controller:{version}"
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "kserve-controller-manager", "namespace": "kserve"},
        "spec": {"template": {"spec": {"containers": [{"name": "manager", "image": image}]}}},
        "status": {"availableReplicas": available},
    }


def service_account(component: str) -> Object:
    """The account that the manifests create for a component's pods."""
    metadata = {"name": f"{SERVICE}-{component}"}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}


def namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
