"""The verbs report failures of the cluster and derive their exit codes from them."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest

from tests.deploy import shapes
from tests.deploy.api_server import ApiServer
from tests.deploy.conftest import Deployment
from tests.deploy.test_rollout import FAILED_REVISION, WITHOUT_REVISION
from tests.waiting import wait_until

Object = dict[str, Any]
QUOTA = (
    'Error creating: pods "x" is forbidden: exceeded quota: gpus, requested: '
    "requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=4, limited: requests.nvidia.com/gpu=4"
)


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        (
            [shapes.pod(scheduled="0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")],
            "3 Insufficient nvidia.com/gpu",
        ),
        (
            [
                shapes.pod(statuses=[shapes.waiting("ImagePullBackOff", "Back-off pulling image")]),
                shapes.event(
                    "Pod", shapes.POD, "Failed", 'Failed to pull image "x": rpc error: not found'
                ),
            ],
            "Push the image",
        ),
        (
            [shapes.event("ReplicaSet", "stable-diffusion-predictor-00001", "FailedCreate", QUOTA)],
            "The quota 'gpus' is exceeded",
        ),
        (
            [
                shapes.claim(),
                shapes.event(
                    "PersistentVolumeClaim",
                    shapes.CLAIM,
                    "ProvisioningFailed",
                    'Failed to provision volume with StorageClass "standard": invalid AccessModes '
                    "[ReadWriteMany]: only AccessModes [ReadWriteOnce] are supported",
                ),
            ],
            "file storage class",
        ),
    ],
    ids=["no GPU", "no image", "quota", "access mode"],
)
def test_status_says_why_the_service_waits(
    deployment: Deployment, objects: list[Object], expected: str
) -> None:
    deployment.run("up")
    deployment.api.update("InferenceService", shapes.SERVICE, status={})
    for item in objects:
        deployment.api.put(item)

    done = deployment.run("status")

    assert done.code == 10
    assert expected in done.out
    assert "is not ready" in done.err


def test_status_of_a_working_deployment(deployment: Deployment) -> None:
    deployment.run("up")

    done = deployment.run("status")

    assert done.code == 0
    assert "Bound, 20Gi" in done.out
    assert f"job/{shapes.JOB}: complete" in done.out
    assert f"ready at http://{shapes.HOST}" in done.out


def test_status_before_up(deployment: Deployment) -> None:
    done = deployment.run("status")

    assert done.code == 10
    assert "is not deployed; run `up`" in done.err


def gated(api: ApiServer, _: Object) -> None:
    api.put(shapes.job_pod(3, "it is gated: accept its terms at https://hub.example/model"))
    api.logs[shapes.JOB_POD] = lambda: ["error: it is gated"]
    api.update("Job", shapes.JOB, status=shapes.failed_job(3)["status"])


def test_a_gated_model_fails_up_before_a_gpu_is_requested(deployment: Deployment) -> None:
    deployment.api.controllers["Job"] = gated

    up, status = deployment.run("up"), deployment.run("status")

    assert (up.code, status.code) == (8, 8)
    assert "accept its terms at https://hub.example/model" in up.err
    assert "Accept the model's terms" in up.err
    assert deployment.api.find("InferenceService", shapes.SERVICE) is None


def refuse(api: ApiServer, _: Object) -> None:
    api.put(
        shapes.event(
            "InferenceService",
            shapes.SERVICE,
            "InternalError",
            'fails to reconcile predictor: admission webhook "validation.webhook.serving.knative.'
            'dev" denied the request: validation failed: must not set the field(s): '
            "spec.template.spec.runtimeClassName",
        )
    )


def miss_deadline(api: ApiServer, _: Object) -> None:
    failed = shapes.condition(
        "PredictorReady",
        "False",
        "RevisionFailed",
        'Revision "stable-diffusion-predictor-00001" failed with message: Initial scale was never '
        "achieved.",
    )
    api.update("InferenceService", shapes.SERVICE, status={"conditions": [failed]})


@pytest.mark.parametrize(
    ("controller", "expected"),
    [(refuse, "kubernetes.podspec-runtimeclassname"), (miss_deadline, "progress-deadline")],
)
def test_a_problem_that_waiting_cannot_solve_fails_up_at_once(
    deployment: Deployment, controller: Any, expected: str
) -> None:
    deployment.api.controllers["InferenceService"] = controller

    done = deployment.run("up")

    assert done.code == 9
    assert expected in done.err


def test_an_old_refusal_is_reported_and_does_not_end_the_wait(deployment: Deployment) -> None:
    """The flag is enabled, but KServe has not retried yet."""
    refused = "kubernetes.podspec-runtimeclassname"
    good = deployment.api.controllers["InferenceService"]
    deployment.api.controllers["InferenceService"] = refuse
    first = deployment.run("up")
    item = deployment.api.find("InferenceService", shapes.SERVICE)
    assert item
    deployment.printed = io.StringIO()

    def retry() -> None:
        wait_until(lambda: refused in deployment.printed.getvalue())
        good(deployment.api, item)

    later = threading.Thread(target=retry)
    later.start()

    second = deployment.run("up")

    later.join()
    assert (first.code, second.code) == (9, 0)
    assert refused in second.out


@pytest.mark.parametrize("kind", ["Job", "InferenceService"])
def test_an_api_server_that_restarts_does_not_end_the_wait(
    deployment: Deployment, kind: str
) -> None:
    good = deployment.api.controllers[kind]

    def restart(api: ApiServer, item: Object) -> None:
        good(api, item)
        api.failures = 2

    deployment.api.controllers[kind] = restart

    done = deployment.run("up")

    assert (done.code, deployment.api.failures) == (0, 0)
    assert "503, the apiserver is shutting down; retrying" in done.out


def test_a_download_that_waits_for_its_volume_says_so(deployment: Deployment) -> None:
    deployment.api.controllers = {
        "PersistentVolumeClaim": lambda api, item: (
            api.put({**item, "status": {"phase": "Pending"}}) and None
        )
    }

    done = deployment.run("up", "--timeout", "1s")

    assert done.code == 10
    assert "waits for a volume" in done.err


def miss_the_revisions_deadline(api: ApiServer, _: Object) -> None:
    api.put(shapes.revision(1, *FAILED_REVISION))
    status = {"conditions": list(WITHOUT_REVISION)}
    api.update("InferenceService", shapes.SERVICE, status=status)


def test_a_failed_revision_fails_up_and_status(deployment: Deployment) -> None:
    deployment.api.controllers["InferenceService"] = miss_the_revisions_deadline

    up, status = deployment.run("up"), deployment.run("status")

    assert (up.code, status.code) == (9, 9)
    assert "its download did not finish" in up.err
    assert "its download did not finish" in status.out


def test_a_problem_that_passes_by_itself_is_not_reported(deployment: Deployment) -> None:
    """KServe's controller needs a moment to process a new InferenceService."""
    good = deployment.api.controllers["InferenceService"]
    later: list[threading.Timer] = []

    def notice(api: ApiServer, item: Object) -> None:
        later.append(threading.Timer(0.3, good, [api, item]))
        later[0].start()

    deployment.api.controllers["InferenceService"] = notice

    done = deployment.run("up")

    later[0].join()
    assert done.code == 0
    assert "warn" not in done.out


def test_up_after_down_says_that_the_former_service_is_still_being_deleted(
    deployment: Deployment,
) -> None:
    deployment.run("up")
    api = deployment.api
    item = api.find("InferenceService", shapes.SERVICE)
    assert item
    item["metadata"]["finalizers"] = ["foregroundDeletion"]
    item["metadata"]["deletionTimestamp"] = "2026-11-21T11:00:00Z"
    gone = threading.Timer(3, api.remove, ["InferenceService", shapes.SERVICE])
    gone.start()

    done = deployment.run("up")

    gone.join()
    assert done.code == 0
    assert "The former inferenceservice/stable-diffusion is still being deleted" in done.out
    assert "foregroundDeletion" in done.out


def test_a_former_service_that_is_never_deleted_explains_the_time_limit(
    deployment: Deployment,
) -> None:
    deployment.run("up")
    item = deployment.api.find("InferenceService", shapes.SERVICE)
    assert item
    item["metadata"]["deletionTimestamp"] = "2026-11-21T11:00:00Z"

    done = deployment.run("up", "--timeout", "1s")

    assert done.code == 10
    assert "is still being deleted" in done.err
