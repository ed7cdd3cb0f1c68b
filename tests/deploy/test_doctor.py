"""``doctor`` finds what a cluster lacks before anything is applied, and gives advice."""

from __future__ import annotations

import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.checks import CHECKS
from deploy.checks.kubernetes import OLDEST
from deploy.objects import load_objects
from deploy.workload import pod_specs, requests_of
from tests.deploy import shapes
from tests.deploy.api_server import KNATIVE, KSERVE
from tests.deploy.conftest import ROOT, Deployment

Object = dict[str, Any]

QUEUE_PROXY = "queue.sidecar.serving.knative.dev/"


def change(deployment: Deployment, tmp_path: Path, name: str, **predictor: Any) -> None:
    """Deploy the manifests with additional fields of the predictor."""
    folder = tmp_path / "changed"
    shutil.copytree(deployment.manifests, folder)
    path = folder / name
    item = yaml.safe_load(path.read_text())
    item["spec"]["predictor"].update(predictor)
    path.write_text(yaml.safe_dump(item))
    deployment.manifests = folder


def test_a_good_cluster_passes_every_check(deployment: Deployment) -> None:
    done = deployment.run("doctor")

    assert done.code == 0
    levels = [line[:4].strip() for line in done.out.splitlines()]
    assert set(levels) == {"ok"}
    assert len(levels) >= len(CHECKS)
    assert "KServe v0.21.0 runs" in done.out
    assert not [method for method, *_ in deployment.api.requests if method in ("PATCH", "DELETE")]


@pytest.mark.parametrize(
    ("version", "code", "expected"),
    [
        ("v1.29.0-gke.1", 0, "ok    Kubernetes v1.29.0-gke.1 runs"),
        ("v1.28.15", 5, "fail  Kubernetes v1.28.15 is older than 1.29"),
        ("v1.9.3+k3s1", 5, "fail  Kubernetes v1.9.3+k3s1 is older than 1.29"),
        ("", 0, "warn  the version of Kubernetes is unknown: ''"),
    ],
)
def test_kubernetes_must_be_as_new_as_the_chart_requires(
    deployment: Deployment, version: str, code: int, expected: str
) -> None:
    deployment.api.git_version = version

    done = deployment.run("doctor")

    assert (done.code, done.out.splitlines()[0]) == (code, expected)
    chart = yaml.safe_load((ROOT / "helm/Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={'.'.join(map(str, OLDEST))}.0-0"


def test_without_kserve_nothing_is_applied(deployment: Deployment) -> None:
    del deployment.api.kinds[next(iter(KSERVE))]

    doctor, up = deployment.run("doctor"), deployment.run("up")

    assert (doctor.code, up.code) == (5, 5)
    assert "KServe is not installed" in doctor.out
    assert "https://kserve.github.io" in doctor.out
    assert deployment.api.requested("PATCH") == []


def test_knative_mode_without_knative(deployment: Deployment) -> None:
    del deployment.api.kinds[next(iter(KNATIVE))]

    done = deployment.run("doctor")

    assert done.code == 5
    assert "predictor.deploymentMode=Standard" in done.out


def test_knatives_flags_are_computed_from_our_objects(
    deployment: Deployment, tmp_path: Path
) -> None:
    change(
        deployment,
        tmp_path,
        "03-inference-service.yaml",
        nodeSelector={"kubernetes.io/hostname": "gpu-1"},
        tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}],
        volumes=[{"name": "m", "persistentVolumeClaim": {"claimName": "c"}}],
    )
    deployment.api.put(
        shapes.config_map(
            "config-features",
            "knative-serving",
            # `allowed` is enough for a field such as tolerations, but not for a claim.
            {
                "kubernetes.podspec-tolerations": "Allowed",
                "kubernetes.podspec-persistent-volume-claim": "allowed",
            },
        )
    )

    done = deployment.run("doctor")

    assert done.code == 5
    assert (
        "kubectl --namespace knative-serving patch configmap config-features --type merge --patch "
        '\'{"data":{"kubernetes.podspec-nodeselector":"enabled",'
        '"kubernetes.podspec-persistent-volume-claim":"enabled",'
        '"kubernetes.podspec-persistent-volume-write":"enabled"}}\'' in done.out
    )


def test_standard_mode_needs_no_flags(deployment: Deployment, tmp_path: Path) -> None:
    change(deployment, tmp_path, "03-inference-service.yaml", nodeSelector={"a": "b"})
    path = deployment.manifests / "03-inference-service.yaml"
    path.write_text(path.read_text().replace("deploymentMode: Knative", "deploymentMode: Standard"))
    del deployment.api.kinds[next(iter(KNATIVE))]

    done = deployment.run("doctor")

    assert done.code == 0
    assert "runs in Standard mode (from its annotation)" in done.out


def test_a_mode_cannot_be_switched(deployment: Deployment) -> None:
    running = shapes.service(**shapes.ready_status())
    running["status"] = {**shapes.ready_status(), "deploymentMode": "RawDeployment"}
    deployment.api.put(running)

    done = deployment.run("doctor")

    assert done.code == 5
    assert "KServe cannot change it to Knative" in done.out


@pytest.mark.parametrize(
    ("version", "available", "level", "expected"),
    [
        ("v0.15.2", 1, "warn", "other names"),
        ("v0.21.0", 0, "fail", "its controller does not run"),
        ("latest", 1, "ok", "of unknown version"),
    ],
)
def test_kserves_own_state(
    deployment: Deployment, version: str, available: int, level: str, expected: str
) -> None:
    deployment.api.put(shapes.kserve_controller(version, available))

    done = deployment.run("doctor")

    (line,) = [line for line in done.out.splitlines() if expected in line]
    assert line.startswith(level)


@pytest.mark.parametrize(
    ("classes", "level", "expected"),
    [
        ([("gp3", "ebs.csi.aws.com", True)], "fail", "Install a file storage class"),
        (
            [("gp3", "ebs.csi.aws.com", True), ("efs", "efs.csi.aws.com", False)],
            "fail",
            "Name efs (chart value storage.storageClassName)",
        ),
        ([("odd", "example.com/odd", True)], "warn", "must support ReadWriteMany"),
        ([("nfs", "nfs.csi.k8s.io", False)], "fail", "there is no default storage class"),
        ([("cephfs", "rook-ceph.cephfs.csi.ceph.com", True)], "ok", "supports ReadWriteMany"),
    ],
)
def test_the_storage_class_must_support_the_access_mode(
    deployment: Deployment, classes: list[tuple[str, str, bool]], level: str, expected: str
) -> None:
    deployment.api.remove("StorageClass", "nfs")
    for name, provisioner, default in classes:
        deployment.api.put(shapes.storage_class(name, provisioner, default=default))

    done = deployment.run("doctor")

    assert expected in done.out
    assert done.code == (5 if level == "fail" else 0)


@pytest.mark.parametrize(
    ("line", "level", "expected"),
    [
        (
            "INFO model sd: read 6939 MB of files in 86.7 s, 80 MB/s",
            "warn",
            "read the 6939 MB of model sd in 86.7 s, at 80 MB/s, which every cold start",
        ),
        (
            '{"message": "model sd: read 6939 MB of files in 4.6 s, 1508 MB/s"}',
            "ok",
            "at 1508 MB/s",
        ),
        # Too small to say anything about the volume.
        ("INFO model demo: read 6 MB of files in 1.1 s, 5 MB/s", "ok", "is unknown"),
        ("INFO the port is open", "ok", "is unknown"),
    ],
)
def test_a_slow_volume_is_found_in_the_log_of_a_running_pod(
    deployment: Deployment, line: str, level: str, expected: str
) -> None:
    deployment.api.put(
        shapes.pod(phase="Running", statuses=[shapes.container(state={"running": {}})])
    )
    deployment.api.logs[shapes.POD] = lambda: ["INFO starting", line, "INFO the rest"]

    done = deployment.run("doctor")

    assert done.code == 0
    (found,) = [one for one in done.out.splitlines() if expected in one]
    assert found.startswith(level)


def test_a_pod_without_a_log_says_nothing_about_the_volume(deployment: Deployment) -> None:
    deployment.api.put(
        shapes.pod(phase="Running", statuses=[shapes.container(state={"running": {}})])
    )

    assert "read speed is unknown" in deployment.run("doctor").out


def test_a_bound_claim_is_checked_by_its_own_access_modes(deployment: Deployment) -> None:
    bound = {
        **shapes.claim("Bound"),
        "status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"]},
    }
    deployment.api.put(bound)

    done = deployment.run("doctor")

    assert done.code == 5
    assert "is bound as ReadWriteOnce" in done.out


def test_a_claim_outside_the_manifests_must_exist(deployment: Deployment, tmp_path: Path) -> None:
    folder = tmp_path / "without-claim"
    folder.mkdir()
    for path in deployment.manifests.glob("0[123]*.yaml"):
        shutil.copy(path, folder)
    deployment.manifests = folder
    for component in ("predictor", "downloader"):
        deployment.api.put(shapes.service_account(component))

    missing = deployment.run("doctor")
    deployment.api.put(shapes.claim("Bound"))
    there = deployment.run("doctor")

    assert (missing.code, there.code) == (5, 0)
    assert "claim 'stable-diffusion-models', which our pods mount, does not exist" in missing.out


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([], "no node has 1 nvidia.com/gpu"),
        ([{"gpus": 0}], "no node has 1 nvidia.com/gpu"),
        (
            [{"taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]}],
            "tainted nvidia.com/gpu=present:NoSchedule",
        ),
    ],
)
def test_a_missing_gpu_only_warns_as_an_autoscaler_may_bring_one(
    deployment: Deployment, nodes: list[Object], expected: str
) -> None:
    deployment.api.remove("Node", "gpu-1")
    for fields in nodes:
        deployment.api.put(shapes.node(**fields))

    done = deployment.run("doctor")

    assert done.code == 0
    assert f"warn  {expected}" in done.out or expected in done.out
    assert "warn" in done.out


def test_a_required_secret_must_exist(deployment: Deployment, tmp_path: Path) -> None:
    change(
        deployment,
        tmp_path,
        "03-inference-service.yaml",
        imagePullSecrets=[{"name": "registry"}],
    )

    done = deployment.run("doctor")

    assert done.code == 5
    assert "secret 'registry' does not exist" in done.out


def test_an_empty_placeholder_is_enough_for_public_models(deployment: Deployment) -> None:
    assert "enough for public models" in deployment.run("doctor").out


@pytest.mark.parametrize(("used", "level"), [("4", "warn"), ("3", "ok")])
def test_what_the_quota_leaves(deployment: Deployment, used: str, level: str) -> None:
    name = "requests.nvidia.com/gpu"
    deployment.api.put(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "gpus"},
            "status": {"hard": {name: "4"}, "used": {name: used}},
        }
    )

    done = deployment.run("doctor")

    (line,) = [line for line in done.out.splitlines() if "gpus" in line]
    assert line.startswith(level)


def quota(**hard: str) -> Object:
    limits = {name.replace("_", "."): value for name, value in hard.items()}
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "compute"},
        "spec": {"hard": limits},
        "status": {"hard": limits, "used": {}},
    }


def limit_range(**limits: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "defaults"},
        "spec": {"limits": [{"type": "Container", **limits}]},
    }


def set_queue_proxy(deployment: Deployment, **resources: str) -> None:
    """Deploy a copy of the manifests whose annotations give queue-proxy these resources alone."""
    folder = deployment.folder / f"queue-proxy-{len(resources)}"
    shutil.copytree(deployment.manifests, folder)
    path = folder / "03-inference-service.yaml"
    item = yaml.safe_load(path.read_text())
    annotations = item["metadata"]["annotations"]
    for name in [name for name in annotations if name.startswith(QUEUE_PROXY)]:
        del annotations[name]
    for name, value in resources.items():
        annotations[f"{QUEUE_PROXY}{name.replace('_', '-')}"] = value
    path.write_text(yaml.safe_dump(item))
    deployment.manifests = folder


def test_a_quota_on_what_a_container_does_not_set_refuses_every_pod(
    deployment: Deployment,
) -> None:
    """Knative gives queue-proxy a CPU request and nothing else."""
    deployment.api.put(quota(limits_cpu="100"))
    assert deployment.run("doctor").code == 0
    set_queue_proxy(deployment)

    refused = deployment.run("doctor")
    deployment.api.put(limit_range(default={"cpu": "8", "memory": "32Gi"}))
    filled = deployment.run("doctor")

    assert (refused.code, filled.code) == (5, 0)
    assert "compute: inferenceservice/stable-diffusion sets no limits.cpu for" in refused.out
    assert "queue-proxy" in refused.out
    assert "for queue-proxy `predictor.queueProxyResources`" in " ".join(refused.out.split())
    assert "ok    compute, defaults admits our pods" in filled.out


def test_the_quota_counts_what_knative_gives_queue_proxy(deployment: Deployment) -> None:
    def line(wanted: str) -> str:
        out = deployment.run("doctor").out
        return next(line for line in out.splitlines() if wanted in line)

    set_queue_proxy(deployment)
    specs = [spec for _, spec in pod_specs(load_objects(deployment.manifests))]
    ours = sum(requests_of(spec)["requests.cpu"] for spec in specs)
    deployment.api.put(quota(requests_cpu="100m"))
    assert f"wanted {ours + Decimal('0.025')}" in line("requests.cpu wanted")

    config = {"queue-sidecar-cpu-request": "75m", "queue-sidecar-memory-limit": "1Gi"}
    deployment.api.put(shapes.config_map("config-deployment", "knative-serving", config))
    assert f"wanted {ours + Decimal('0.075')}" in line("requests.cpu wanted")

    set_queue_proxy(deployment, cpu_resource_request="475m")
    assert f"wanted {ours + Decimal('0.475')}" in line("requests.cpu wanted")


def test_the_bounds_of_a_limit_range(deployment: Deployment) -> None:
    deployment.api.put(limit_range(min={"cpu": "50m"}, max={"memory": "64Gi"}))
    set_queue_proxy(deployment)

    done = deployment.run("doctor")

    assert done.code == 5
    assert "container queue-proxy requests 25m of cpu, and the minimum is 50m" in done.out
    assert "container queue-proxy sets no limit of memory, and the maximum is 64Gi" in done.out


def test_a_quota_with_a_scope_may_apply_to_other_pods(deployment: Deployment) -> None:
    scoped = quota(limits_cpu="100")
    scoped["spec"]["scopes"] = ["BestEffort"]
    deployment.api.put(scoped)

    assert deployment.run("doctor").code == 0


def test_a_volume_created_by_hand_may_reach_many_nodes(deployment: Deployment) -> None:
    deployment.api.remove("StorageClass", "nfs")
    by_hand = shapes.storage_class("local", "kubernetes.io/no-provisioner", default=True)
    deployment.api.put(by_hand)

    done = deployment.run("doctor")

    assert done.code == 0
    assert "uses volumes that you create by hand" in done.out


def test_a_check_can_be_skipped(deployment: Deployment) -> None:
    deployment.api.put(shapes.storage_class("nfs", "ebs.csi.aws.com", default=True))
    deployment.api.put(shapes.kserve_controller(available=0))

    failed = deployment.run("doctor", "--skip", "kserve")
    skipped = deployment.run("doctor", "--skip", "Storage", "--skip", "kserve")
    up = deployment.run("up", "--skip", "storage", "--skip", "KServe")
    unknown = deployment.run("doctor", "--skip", "weather")

    assert (failed.code, skipped.code, up.code, unknown.code) == (5, 0, 0, 2)
    assert "does not support ReadWriteMany" not in skipped.out
    assert "the checks are kubernetes, permissions, kserve" in unknown.err


def test_a_missing_write_permission_fails_and_a_missing_read_permission_warns(
    deployment: Deployment,
) -> None:
    deployment.api.denied |= {("patch", "inferenceservices"), ("list", "nodes"), ("list", "events")}

    done = deployment.run("doctor")

    assert done.code == 5
    assert "you may not patch inferenceservices.serving.kserve.io in namespace default" in done.out
    assert "warn  nodes: cannot be checked" in done.out
    assert "warn  you may not list events" in done.out


def test_a_missing_namespace(deployment: Deployment) -> None:
    done = deployment.run("doctor", "--namespace", "images")

    assert done.code == 5
    assert "kubectl create namespace images" in done.out


def test_a_kind_without_its_crd(deployment: Deployment, tmp_path: Path) -> None:
    folder = tmp_path / "monitored"
    shutil.copytree(deployment.manifests, folder)
    (folder / "Kustomization").unlink()
    monitor = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": "m"},
    }
    (folder / "04-monitor.yaml").write_text(yaml.safe_dump(monitor))
    deployment.manifests = folder

    done = deployment.run("doctor")

    assert done.code == 5
    assert "does not know PodMonitor of monitoring.coreos.com/v1" in done.out
