"""The latest Revision, Deployment and ReplicaSet decide, not leftovers of former ones.

The conditions and messages are those of Kubernetes 1.36 with KServe and Knative of August 2026.
"""

from __future__ import annotations

from typing import Any

import pytest

from deploy.explain import Explanation, Snapshot, explain_service
from deploy.explain.rollout import creation_mark, failure_mark
from tests.deploy import shapes
from tests.deploy.shapes import condition, container, event, terminated

Object = dict[str, Any]
CRASH = "/mnt/models has no .modelstore.json: its download did not finish"
NO_REVISION = 'Configuration "stable-diffusion-predictor" does not have any ready Revision.'
WITHOUT_REVISION = (
    condition("PredictorConfigurationReady", "False", "RevisionMissing", NO_REVISION),
    condition("PredictorReady", "False", "RevisionMissing", NO_REVISION),
    condition("Ready", "False", "RevisionMissing", NO_REVISION),
)
MISSED = "Initial scale was never achieved"
FAILED_REVISION = (
    condition("Active", "False", "TimedOut", "The target could not be activated."),
    condition("ContainerHealthy", "False", "ExitCode1", f"Container failed with: {CRASH}"),
    condition("Ready", "False", "ProgressDeadlineExceeded", MISSED),
    condition("ResourcesAvailable", "False", "ProgressDeadlineExceeded", MISSED),
)
TIMED_OUT = condition(
    "Progressing",
    "False",
    "ProgressDeadlineExceeded",
    'ReplicaSet "stable-diffusion-predictor-1c8c5f54f5" has timed out progressing.',
)
EXCEEDED = (
    'pods "stable-diffusion-predictor-1c8c5f54f5-4h97n" is forbidden: exceeded quota: gpus, '
    "requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=4, "
    "limited: requests.nvidia.com/gpu=4"
)
TOO_SMALL_LIMIT = (
    "fails to reconcile predictor: fails to reconcile knative service: admission webhook "
    '"validation.webhook.serving.knative.dev" denied the request: validation failed: dry run '
    'failed with Pod "dry-run-validation{}" is invalid: spec.containers[0].resources.requests: '
    'Invalid value: "2": must be less than or equal to cpu limit of 1: spec.template'
)


def explain(
    owners: list[Object],
    pods: list[Object] | None = None,
    events: list[Object] | None = None,
    conditions: tuple[Object, ...] = WITHOUT_REVISION,
    known: frozenset[str] = frozenset(),
) -> Explanation:
    """The explanation of the InferenceService."""
    service = shapes.service(*conditions)
    seen = Snapshot(service, pods or [], [], events or [], known, owners)
    explanation = explain_service(seen)
    assert explanation
    return explanation


def crashed_pod(**fields: Any) -> Object:
    status = container(lastState=terminated(1, CRASH), restartCount=6, state={"waiting": {}})
    return shapes.pod(phase="Running", statuses=[status], **fields)


def test_a_revision_that_missed_its_deadline_is_fatal_and_quotes_the_container() -> None:
    explanation = explain([shapes.revision(1, *FAILED_REVISION)])

    assert explanation.fatal
    assert MISSED in explanation.reason
    assert CRASH in explanation.reason
    assert "serving.knative.dev/progress-deadline" in explanation.advice


def test_without_a_failed_revision_the_condition_is_quoted_whole() -> None:
    explanation = explain([shapes.revision(1)])

    assert not explanation.fatal
    assert NO_REVISION in explanation.reason


def test_a_failed_former_revision_does_not_affect_the_latest() -> None:
    latest = shapes.revision(10, condition("Ready", "Unknown", "Deploying"))

    explanation = explain([shapes.revision(9, *FAILED_REVISION), latest])

    assert not explanation.fatal
    assert MISSED not in explanation.reason


def test_a_failure_from_before_the_change_does_not_end_the_wait() -> None:
    revision = shapes.revision(1, *FAILED_REVISION)

    explanation = explain([revision], known=frozenset([failure_mark(revision)]))

    assert not explanation.fatal
    assert MISSED in explanation.reason


@pytest.mark.parametrize(
    ("statuses", "fatal"),
    [
        ([container(lastState=terminated(1, CRASH), restartCount=6)], True),
        ([container(state={"running": {}})], False),
    ],
    ids=["crashes", "loads"],
)
def test_a_deployment_after_its_deadline_is_fatal_only_if_the_container_crashes(
    statuses: list[Object], fatal: bool
) -> None:
    deployment = shapes.deployment(TIMED_OUT)
    replica_set = shapes.replica_set(deployment)
    pod = shapes.pod(phase="Running", statuses=statuses, owner=replica_set)

    explanation = explain([deployment, replica_set], [pod])

    assert explanation.fatal is fatal
    assert "has timed out progressing" in explanation.reason


def test_a_missed_deadline_of_the_former_spec_does_not_count() -> None:
    deployment = shapes.deployment(TIMED_OUT, generation=2, observed=1)

    explanation = explain([deployment])

    assert "progress deadline" not in explanation.reason


def test_only_the_newest_replica_set_and_its_pods_count() -> None:
    deployment = shapes.deployment()
    failed = condition("ReplicaFailure", "True", "FailedCreate", EXCEEDED)
    former = shapes.replica_set(deployment, 9)
    newest = shapes.replica_set(deployment, 10, failed)
    serving = shapes.pod(phase="Running", statuses=[container(ready=True)], owner=former)

    explanation = explain([deployment, newest, former], [serving])

    assert "The quota 'gpus' is exceeded" in explanation.reason


def test_pods_of_a_former_revision_do_not_hide_a_refusal() -> None:
    labels = {"serving.knative.dev/revision": "stable-diffusion-predictor-00001"}
    crashing = crashed_pod(labels=labels)
    latest = shapes.revision(2, condition("Ready", "Unknown", "Deploying"))
    refused = event(
        "InferenceService",
        shapes.SERVICE,
        "InternalError",
        'admission webhook "policy.example.com" denied the request: images need a digest',
    )

    explanation = explain([shapes.revision(1), latest], [crashing], [refused])

    assert explanation.fatal
    assert "images need a digest" in explanation.reason


def test_a_limit_below_the_request_names_the_field_and_ends_the_wait() -> None:
    explanations = set()
    for end in ("x7k2p", "4h97n"):
        message = TOO_SMALL_LIMIT.format(end)
        explanations.add(
            explain(
                [], events=[event("InferenceService", "stable-diffusion", "InternalError", message)]
            )
        )

    (explanation,) = explanations
    assert explanation.fatal
    assert "containers[0] requests 2 of cpu, more than its limit of 1." in explanation.reason
    assert "`resources.limits.cpu`" in explanation.advice
    assert "inferenceservice-config" in explanation.advice


def test_the_same_limit_in_standard_mode() -> None:
    message = (
        'fails to reconcile predictor: Deployment.apps "stable-diffusion-predictor" is invalid: '
        'spec.template.spec.containers[0].resources.requests: Invalid value: "2": must be less '
        "than or equal to cpu limit of 1"
    )
    refused = event("InferenceService", shapes.SERVICE, "InternalError", message)

    assert explain([], events=[refused]).fatal


def test_an_unknown_refusal_gives_the_same_reason_on_each_retry() -> None:
    message = 'fails to reconcile: dry run failed with pods "dry-run-validation{}" is forbidden: no'
    explanations = {
        explain([], events=[event("InferenceService", "stable-diffusion", "InternalError", said)])
        for said in (message.format("x7k2p"), message.format("4h97n"))
    }

    assert len(explanations) == 1
    assert "is forbidden: no" in str(explanations)


def test_a_write_conflict_is_never_a_reason() -> None:
    conflict = (
        "fails to reconcile predictor: fails to update knative service: Operation cannot be "
        'fulfilled on services.serving.knative.dev "stable-diffusion-predictor": the object has '
        "been modified; please apply your changes to the latest version and try again"
    )
    events = [event("InferenceService", shapes.SERVICE, "InternalError", conflict)]
    conditions = (condition("PredictorReady", "False", "UpdateFailed", conflict),)

    assert NO_REVISION in explain([], events=events).reason
    assert (
        explain([], conditions=conditions).reason == "The predictor is being created: UpdateFailed"
    )


@pytest.mark.parametrize(
    ("kind", "about"),
    [
        ("InferenceService", {"uid": "uid-of-a-former-one"}),
        ("ReplicaSet", {}),
    ],
)
def test_events_of_a_former_service_do_not_count(kind: str, about: Object) -> None:
    service = shapes.service(*WITHOUT_REVISION)
    service["metadata"] |= {"uid": "uid", "creationTimestamp": "2026-11-21T11:00:00Z"}
    name = "stable-diffusion" if kind == "InferenceService" else "stable-diffusion-predictor-1c8c"
    old = event(kind, name, "InternalError", f"Error creating: {EXCEEDED}")
    old["reason"] = "FailedCreate" if kind == "ReplicaSet" else "InternalError"
    old["involvedObject"] |= about

    explanation = explain_service(Snapshot(service, events=[old]))

    assert explanation
    assert "quota" not in str(explanation)


def test_queue_proxy_loads_no_weights() -> None:
    """Knative gives queue-proxy the predictor's readiness probe, so it is the unready container."""
    running = {"state": {"running": {}}}
    starts = [container(ready=True, **running), container("queue-proxy", **running)]
    sidecar = [container(ready=True, **running), container("istio-proxy", **running)]

    loading = explain([], [shapes.pod(phase="Running", statuses=starts)]).reason
    waiting = explain([], [shapes.pod(phase="Running", statuses=sidecar)]).reason

    assert loading == f"Pod {shapes.POD} runs; kserve-container is loading the weights."
    assert waiting == f"Pod {shapes.POD} runs; istio-proxy is not ready yet."


def test_the_scheduler_s_remarks_on_claims_and_preemption_are_left_out() -> None:
    message = (
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. no new claims to deallocate, "
        "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    )

    reason = explain([], [shapes.pod(scheduled=message)]).reason

    assert reason.endswith("0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (
            "[minimum cpu usage per Container is 100m, but request is 25m, maximum memory usage "
            "per Pod is 4Gi, but limit is 16Gi]",
            "minimum cpu usage per Container is 100m, but request is 25m; maximum memory usage "
            "per Pod is 4Gi, but limit is 16Gi.",
        ),
        (
            "failed quota: compute: must specify limits.cpu for: kserve-container,queue-proxy",
            "do not set limits.cpu for: kserve-container,queue-proxy",
        ),
    ],
)
def test_a_pod_that_can_never_be_created_ends_the_wait(refusal: str, expected: str) -> None:
    deployment = shapes.deployment()
    message = f'pods "stable-diffusion-predictor-1c8c5f54f5-4h97n" is forbidden: {refusal}'
    failed = condition("ReplicaFailure", "True", "FailedCreate", message)

    explanation = explain([deployment, shapes.replica_set(deployment, 1, failed)])

    assert explanation.fatal
    assert expected in explanation.reason


def test_an_old_refusal_of_a_pod_does_not_end_the_wait() -> None:
    """The ReplicaSet retries after up to a quarter of an hour, when the quota may be fixed."""
    message = 'pods "x" is forbidden: failed quota: compute: must specify limits.cpu'
    failed = condition("ReplicaFailure", "True", "FailedCreate", message)
    deployment = shapes.deployment()
    replica_set = shapes.replica_set(deployment, 1, failed)

    explanation = explain([deployment, replica_set], known=frozenset([creation_mark(replica_set)]))

    assert not explanation.fatal
    assert "do not set limits.cpu" in explanation.reason
