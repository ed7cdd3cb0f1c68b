"""Each failure that the cluster reports becomes a reason and advice."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.explain import Snapshot, explain_job, explain_refusal, explain_service
from deploy.explain.refusal import feature_patch
from tests.deploy import shapes
from tests.deploy.shapes import condition, container, event, terminated, waiting

Object = dict[str, Any]
NOT_READY = (
    condition("PredictorReady", "Unknown", "RevisionMissing", "Configuration is waiting"),
    condition("Ready", "Unknown"),
)
BACK_OFF = f'Back-off pulling image "{shapes.IMAGE}"'
PULL = f'Failed to pull image "{shapes.IMAGE}": rpc error: code = '


def explain(
    pods: list[Object] | None = None,
    events: list[Object] | None = None,
    claims: list[Object] | None = None,
    conditions: tuple[Object, ...] = NOT_READY,
) -> str:
    """The explanation of the InferenceService, reason and advice."""
    seen = Snapshot(shapes.service(*conditions), pods or [], claims or [], events or [])
    explanation = explain_service(seen)
    assert explanation
    return str(explanation)


def explain_download(job: Object, *pods: Object, events: list[Object] | None = None) -> str:
    explanation = explain_job(Snapshot(job, pods, [], events or []))
    assert explanation
    return str(explanation)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are "
            "available: 3 No preemption victims found for incoming pod.",
            ["3 Insufficient nvidia.com/gpu", "device plugin"],
        ),
        (
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint "
            "{nvidia.com/gpu: present}. preemption: 0/2 nodes are available: 2 Preemption is not "
            "helpful for scheduling.",
            ["lower the pod's requests", "tainted nvidia.com/gpu: present", "toleration"],
        ),
        (
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            ["nodeSelector", "--show-labels"],
        ),
        (
            "0/4 nodes are available: 4 node(s) had volume node affinity conflict.",
            ["another zone"],
        ),
        (
            '0/1 nodes are available: persistentvolumeclaim "stable-diffusion-models" not found.',
            ["Create the claim 'stable-diffusion-models'"],
        ),
    ],
)
def test_a_pod_that_no_node_can_take(message: str, expected: list[str]) -> None:
    text = explain([shapes.pod(scheduled=message)])

    assert all(part in text for part in expected), text
    assert "preemption" not in text


def test_a_node_that_the_autoscaler_starts_needs_no_action() -> None:
    scale_up = event("Pod", shapes.POD, "TriggeredScaleUp", "pod triggered scale-up", "Normal")

    text = explain(
        [shapes.pod(scheduled="0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")],
        [scale_up],
    )

    assert text == f"Pod {shapes.POD} waits for a node that the cluster autoscaler is starting."


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        (
            f'NotFound desc = failed to pull and unpack image "{shapes.IMAGE}": failed to resolve '
            f'reference "{shapes.IMAGE}": {shapes.IMAGE}: not found',
            "Push the image",
        ),
        (
            "Unknown desc = failed to resolve reference: pull access denied, repository does not "
            "exist or may require authorization: server message: insufficient_scope: "
            "authorization failed",
            "imagePullSecrets",
        ),
        (
            'Unknown desc = failed to do request: Head "https://registry.example.com/v2/": dial '
            "tcp: lookup registry.example.com: no such host",
            "cannot reach the registry",
        ),
    ],
)
@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
def test_an_image_that_cannot_be_pulled(cause: str, advice: str, reason: str) -> None:
    """The kubelet alternates between the cause and a back-off; the event keeps the cause."""
    message = BACK_OFF if reason == "ImagePullBackOff" else PULL.partition(": ")[2] + cause
    failed = event("Pod", shapes.POD, "Failed", PULL + cause)

    text = explain([shapes.pod(statuses=[waiting(reason, message)])], [failed])

    assert shapes.IMAGE in text
    assert cause in text
    assert advice in text


def test_an_image_that_knatives_controller_cannot_look_up() -> None:
    said = (
        'Revision "stable-diffusion-predictor-00001" failed with message: Unable to fetch image '
        f'"{shapes.IMAGE}": failed to resolve image to digest: Get "https://registry.example.com'
        '/v2/": context deadline exceeded.'
    )

    text = explain(conditions=(condition("PredictorReady", "False", "RevisionFailed", said),))

    assert f"Knative cannot resolve the image {shapes.IMAGE}" in text
    assert "registries-skipping-tag-resolving" in text


@pytest.mark.parametrize(
    ("reason", "message", "expected"),
    [
        (
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
            ["names no storage class", "ReadWriteMany", "storageClassName"],
        ),
        (
            "ProvisioningFailed",
            'Failed to provision volume with StorageClass "standard": invalid AccessModes '
            "[ReadWriteMany]: only AccessModes [ReadWriteOnce ReadOnlyMany] are supported",
            ["does not support", "ReadWriteMany", "file storage class", "kubectl delete pvc"],
        ),
        (
            "ProvisioningFailed",
            'failed to provision volume with StorageClass "block": rpc error: code = '
            "InvalidArgument desc = invalid access_mode, MULTI_NODE_MULTI_WRITER",
            ["does not support", "file storage class"],
        ),
        (
            "ProvisioningFailed",
            'storageclass.storage.k8s.io "fast" not found',
            ["does not exist", "kubectl get storageclass"],
        ),
        (
            "ProvisioningFailed",
            'failed to provision volume with StorageClass "efs": rpc error: code = Internal desc '
            "= no credentials",
            ["No volume can be created", "no credentials"],
        ),
        (
            "WaitForFirstConsumer",
            "waiting for first consumer to be created before binding",
            ["once the first pod"],
        ),
        (
            "ExternalProvisioning",
            'Waiting for a volume to be created either by the external provisioner "nfs.csi.k8s.io"'
            " or manually by the system administrator.",
            ["waits for its provisioner", "nfs.csi.k8s.io"],
        ),
    ],
)
def test_a_claim_that_is_not_bound(reason: str, message: str, expected: list[str]) -> None:
    unbound = shapes.pod(
        scheduled="0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims. "
        "preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    )
    events = [event("PersistentVolumeClaim", shapes.CLAIM, reason, message)]

    text = explain([unbound], events, [shapes.claim()])

    assert all(part in text for part in [*expected, shapes.CLAIM]), text


def test_a_volume_that_is_attached_to_another_node() -> None:
    events = [
        event(
            "Pod",
            shapes.POD,
            "FailedAttachVolume",
            'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) other',
        )
    ]

    text = explain([shapes.pod(statuses=[waiting("ContainerCreating")])], events)

    assert "attached to another node" in text
    assert "ReadWriteMany" in text


@pytest.mark.parametrize(
    ("message", "flags"),
    [
        (
            "must not set the field(s): spec.template.spec.nodeSelector, "
            "spec.template.spec.tolerations",
            ["kubernetes.podspec-nodeselector", "kubernetes.podspec-tolerations"],
        ),
        (
            "Persistent volume claim support is disabled, but found persistent volume claim "
            "models: spec.template.spec.volumes[0]\nPersistent volume write support is disabled, "
            "but found persistent volume claim models that is not read-only",
            [
                "kubernetes.podspec-persistent-volume-claim",
                "kubernetes.podspec-persistent-volume-write",
            ],
        ),
        (
            "must not set the field(s): spec.template.spec.containers[0].env[2].valueFrom.fieldRef",
            ["kubernetes.podspec-fieldref"],
        ),
        (
            "must not set the field(s): spec.template.spec.volumes[1].image",
            ["kubernetes.podspec-volumes-image"],
        ),
    ],
)
def test_a_field_that_knatives_webhook_refuses_comes_with_the_patch(
    message: str, flags: list[str]
) -> None:
    refused = event(
        "InferenceService",
        shapes.SERVICE,
        "InternalError",
        'fails to reconcile predictor: admission webhook "validation.webhook.serving.knative.dev" '
        f"denied the request: validation failed: {message}",
    )
    seen = Snapshot(shapes.service(), events=[refused])

    explanation = explain_service(seen)

    assert explanation
    assert explanation.fatal
    assert explanation.advice.endswith(feature_patch(flags))


def test_knative_mode_without_knative() -> None:
    rejected = event(
        "InferenceService",
        shapes.SERVICE,
        "ServerlessModeRejected",
        "It is not possible to use Serverless deployment mode when Knative Services are not "
        "available",
    )

    assert "Standard mode" in explain(events=[rejected])


@pytest.mark.parametrize("who", ["replica set", "condition"])
def test_a_quota_that_is_exceeded(who: str) -> None:
    message = (
        f'pods "{shapes.POD}" is forbidden: exceeded quota: gpus, requested: '
        "requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=4, limited: "
        "requests.nvidia.com/gpu=4"
    )
    if who == "replica set":
        name = shapes.POD.rpartition("-")[0]
        text = explain(
            events=[event("ReplicaSet", name, "FailedCreate", f"Error creating: {message}")]
        )
    else:
        text = explain(conditions=(condition("PredictorReady", "False", "FailedCreate", message),))

    assert (
        "The quota 'gpus' is exceeded: requested requests.nvidia.com/gpu=1, used "
        "requests.nvidia.com/gpu=4, allowed requests.nvidia.com/gpu=4." in text
    )


def test_a_quota_that_requires_limits() -> None:
    text = explain(
        events=[
            event(
                "ReplicaSet",
                f"{shapes.SERVICE}-predictor-7tjcg",
                "FailedCreate",
                'Error creating: pods "x" is forbidden: failed quota: compute: must specify '
                "limits.cpu for: queue-proxy",
            )
        ]
    )

    assert "refuses pods that do not set limits.cpu for: queue-proxy" in text
    assert "for queue-proxy the chart value `predictor.queueProxyResources`" in " ".join(
        text.split()
    )


@pytest.mark.parametrize(
    "last_line",
    [
        "/mnt/models has no .modelstore.json: its download did not finish",
        '{"level": "critical", "message": "/mnt/models has no .modelstore.json: its download"}',
    ],
)
def test_a_predictor_that_crashes_has_its_last_message_quoted(last_line: str) -> None:
    words = f"loading\n{last_line}"
    crashed = waiting(
        "CrashLoopBackOff",
        "back-off 40s restarting failed container",
        restartCount=3,
        lastState=terminated(1, words),
    )

    text = explain([shapes.pod(phase="Running", statuses=[crashed])])

    assert "has failed 3 times, last with exit code 1: /mnt/models has no .modelstore.json" in text
    assert f"kubectl logs {shapes.POD} --container kserve-container --previous" in text


def test_a_predictor_that_runs_out_of_memory() -> None:
    killed = container(lastState=terminated(137, reason="OOMKilled"), restartCount=1)

    assert "resources.limits.memory" in explain([shapes.pod(phase="Running", statuses=[killed])])


def test_a_predictor_that_loads_is_only_waited_for() -> None:
    text = explain([shapes.pod(phase="Running", statuses=[container(state={"running": {}})])])

    assert text == f"Pod {shapes.POD} runs; kserve-container is loading the weights."


def test_a_missed_progress_deadline_comes_with_its_cause() -> None:
    seen = Snapshot(
        shapes.service(
            condition(
                "PredictorReady",
                "False",
                "RevisionFailed",
                'Revision "stable-diffusion-predictor-00001" failed with message: Initial scale '
                "was never achieved.",
            )
        ),
        [shapes.pod(scheduled="0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")],
    )

    explanation = explain_service(seen)

    assert explanation
    assert explanation.fatal
    assert "3 Insufficient nvidia.com/gpu" in explanation.reason
    assert "serving.knative.dev/progress-deadline" in explanation.advice


def test_an_address_that_is_missing_is_not_blamed_on_the_predictor() -> None:
    text = explain(
        conditions=(
            condition("PredictorReady", "True"),
            condition("IngressReady", "Unknown", "Uninitialized", "Waiting for load balancer"),
        )
    )

    assert (
        "The predictor is ready, but its address is not ready yet (Waiting for load balancer)."
        in text
    )


def test_a_service_that_the_controller_has_not_processed() -> None:
    assert "KServe's controller has not processed" in explain(conditions=())


def test_an_old_refusal_does_not_hide_what_the_pods_say_now() -> None:
    refused = event("InferenceService", shapes.SERVICE, "InternalError", "the object was modified")
    running = shapes.pod(phase="Running", statuses=[container(state={"running": {}})])

    assert "loading the weights" in explain([running], [refused])


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (2, "DOWNLOADER_SOURCE: no such scheme", "wrong spec or setting"),
        (3, "it is gated: accept its terms at https://hub/model", "Accept the model's terms"),
        (4, "there is no revision abc", "does not exist"),
        (5, "the target needs 5 bytes more and has 2 bytes free", "Enlarge the claim"),
        (6, "unet is corrupt", "check the mirror"),
        (7, "the hub does not answer", "NetworkPolicy"),
        (8, "it has no safetensors", "has safetensors"),
        (10, "/mnt/models: Permission denied", "Delete the InferenceService"),
    ],
)
def test_each_exit_code_of_the_downloader_says_what_to_do(
    code: int, said: str, expected: str
) -> None:
    text = explain_download(shapes.failed_job(code), shapes.job_pod(code, said))

    assert f"(exit code {code})" in text
    assert said in text
    assert expected in text


def test_the_exit_code_is_known_when_the_pods_are_deleted() -> None:
    assert "(exit code 3)" in explain_download(shapes.failed_job(3))


def test_a_job_that_ran_out_of_time() -> None:
    late = condition(
        "Failed", "True", "DeadlineExceeded", "Job was active longer than specified deadline"
    )

    assert "activeDeadlineSeconds" in explain_download(shapes.job(late))


def test_a_failed_attempt_that_is_retried_does_not_fail_the_job() -> None:
    seen = Snapshot(shapes.job(), [shapes.job_pod(7, "the hub does not answer")])

    explanation = explain_job(seen)

    assert explanation
    assert not explanation.fatal
    assert "the network failed" in explanation.reason
    assert "the download resumes" in explanation.advice


def test_a_download_without_its_secret() -> None:
    missing = waiting(
        "CreateContainerConfigError", 'secret "hub-token" not found', name="downloader"
    )

    text = explain_download(shapes.job(), shapes.pod(name=shapes.JOB_POD, statuses=[missing]))

    assert "kubectl create secret generic hub-token" in text


def test_pods_that_pod_security_forbids() -> None:
    refused = event(
        "Job",
        shapes.JOB,
        "FailedCreate",
        'Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest": '
        'allowPrivilegeEscalation != false (container "istio-init" must set it)',
    )

    assert "istio-init" in explain_download(shapes.job(), events=[refused])


def test_an_old_event_is_ignored_once_there_is_a_pod() -> None:
    refused = event("Job", shapes.JOB, "FailedCreate", "Error creating: exceeded quota")

    assert explain_job(Snapshot(shapes.job(), [shapes.job_pod()], [], [refused])) is None


def test_events_of_a_former_object_are_ignored() -> None:
    job = shapes.job()
    job["metadata"]["uid"] = "new"
    old = event("Job", shapes.JOB, "FailedCreate", "Error creating: no")
    old["involvedObject"]["uid"] = "old"

    assert explain_job(Snapshot(job, events=[old])) is None


def test_what_is_not_known_is_not_explained() -> None:
    assert explain_refusal("the request is too large") is None


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            'failed calling webhook "inferenceservice.kserve-webhook-server.defaulter": connection '
            "refused",
            "KServe controller is down",
        ),
        (
            'no matches for kind "InferenceService" in version "serving.kserve.io/v1beta1"',
            "KServe is not installed",
        ),
        (
            'no matches for kind "HTTPRoute" in version "gateway.networking.k8s.io/v1"',
            "The Gateway API is not installed",
        ),
        ('no matches for kind "PodMonitor" in version "monitoring.coreos.com/v1"', "PodMonitor"),
        ('namespaces "images" not found', "kubectl create namespace images"),
    ],
)
def test_refusals_of_the_api_server(message: str, expected: str) -> None:
    assert expected in str(explain_refusal(message))
