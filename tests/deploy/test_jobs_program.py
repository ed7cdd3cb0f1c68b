"""The verbs on a folder with the jobs program: its Deployment, its Valkey and its Secrets."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from rich.prompt import Confirm

from deploy.explain import Snapshot, explain
from tests.chart.rendering import case_values, render
from tests.deploy import shapes
from tests.deploy.api_server import GATEWAY, ApiServer
from tests.deploy.conftest import Deployment
from tests.deploy.shapes import condition, container, event, terminated

Object = dict[str, Any]
NAME = "stable-diffusion-jobs"
VALKEY = f"{NAME}-valkey"
POD = f"{NAME}-6d5f8c9b7-4h97n"
RUNNING: Object = {"running": {}}
OWN_VALKEY: Object = {"replicas": 2, "valkey": {"enabled": True}}
STANDARD: Object = {
    "deploymentMode": "Standard",
    "scaling": {"minReplicas": 0, "autoscalerClass": "external"},
}
TIMED_OUT = condition("Progressing", "False", "ProgressDeadlineExceeded", "timed out progressing")


def values(jobs: Object, **others: Object) -> Object:
    return {**case_values("manifests"), **others, "jobs": {"enabled": True, **jobs}}


def deploys(deployment: Deployment, jobs: Object, **others: Object) -> None:
    """Deploy the manifests with the jobs program, to a cluster that runs it."""
    folder = deployment.folder / "with-jobs"
    folder.mkdir()
    rendered = render(values(jobs, **others)).objects
    (folder / "all.yaml").write_text(yaml.safe_dump_all(rendered))
    deployment.manifests = folder
    deployment.api.controllers |= {"Deployment": roll_out, "StatefulSet": roll_out}


def roll_out(api: ApiServer, item: Object) -> None:
    """Act as the controller of a Deployment that succeeds."""
    counts = ("replicas", "updatedReplicas", "availableReplicas")
    status = dict.fromkeys(counts, item["spec"]["replicas"])
    api.update(item["kind"], item["metadata"]["name"], status=status)


def pod_of(item: Object, *statuses: Object) -> Object:
    """A pod of a Deployment that is not ready."""
    template = item["spec"]["template"]
    pod = shapes.pod(name=POD, phase="Running", labels=template["metadata"]["labels"])
    pod["spec"] = template["spec"]
    pod["status"]["containerStatuses"] = statuses
    return pod


def test_up_ends_after_the_rollout_of_the_program_and_its_valkey(deployment: Deployment) -> None:
    deploys(deployment, OWN_VALKEY)
    del deployment.api.controllers["Deployment"]

    first = deployment.run("up", "--timeout", "10s")
    item = deployment.api.find("Deployment", NAME)
    assert item
    roll_out(deployment.api, item)
    again = deployment.run("up")

    assert (first.code, again.code) == (10, 0)
    assert len(deployment.predictor.bodies) == 2, "each run has its picture"
    assert f"deployment/{NAME} is not ready" in first.err
    assert "0 of 2 pods are ready" in first.err
    for title in (f"deployment/{NAME}", f"statefulset/{VALKEY}"):
        assert f"ok    {title} is ready" in again.out


def test_a_dry_run_shows_the_objects_of_the_program(deployment: Deployment) -> None:
    deploys(deployment, OWN_VALKEY)

    done = deployment.run("up", "--dry-run")

    assert done.code == 0
    assert f"deployment/{NAME} created (dry run)" in done.out
    assert f"statefulset/{VALKEY} created (dry run)" in done.out


def unready(deployment: Deployment, *statuses: Object) -> Object:
    """Deploy to a cluster on which the program has a pod that is not ready."""
    folder = yaml.safe_load_all((deployment.manifests / "all.yaml").read_text())
    (item,) = (one for one in folder if one["kind"] == "Deployment")
    deployment.api.put(pod_of(item, *statuses))
    return deployment.api.put(item)


def test_an_image_that_cannot_be_pulled_is_the_reason_of_the_wait(deployment: Deployment) -> None:
    deploys(deployment, {})
    message = 'rpc error: code = NotFound desc = failed to resolve "jobs:0.1.0": not found'
    unready(deployment, shapes.waiting("ErrImagePull", message, name="jobs"))

    done = deployment.run("status")

    assert done.code == 10
    assert f"warn  deployment/{NAME}: The image" in done.out
    assert "Push the image, or correct its name" in done.out


def test_a_redis_that_does_not_answer_is_the_reason_of_the_wait(deployment: Deployment) -> None:
    network = {"networkPolicy": {"jobsEgress": [{"ports": [{"port": 6379}]}]}}
    deploys(deployment, {"redis": {"secretName": "team-redis"}}, **network)
    unready(deployment, container("jobs", state=RUNNING))
    message = "Readiness probe failed: HTTP probe failed with statuscode: 503"
    found = event("Pod", POD, "Unhealthy", message)
    found["involvedObject"]["fieldPath"] = "spec.containers{jobs}"
    deployment.api.put(found)

    done = deployment.run("status")

    assert done.code == 10
    assert "statuscode: 503" in done.out
    assert "jobs.redis.secretName" in done.out
    assert "networkPolicy.jobsEgress" in done.out
    assert f"kubectl logs deployment/{NAME}" in done.out


def test_a_program_that_crashes_past_its_deadline_ends_the_wait(deployment: Deployment) -> None:
    deploys(deployment, {})

    def crash(api: ApiServer, item: Object) -> None:
        ended = terminated(1, "jobs: redis_url: the URL is not valid")
        status = container("jobs", lastState=ended, restartCount=6, state={"waiting": {}})
        api.put(pod_of(item, status))
        api.update("Deployment", NAME, status={"conditions": [TIMED_OUT]})

    deployment.api.controllers["Deployment"] = crash
    done = deployment.run("up")

    assert done.code == 9
    assert "redis_url: the URL is not valid" in done.err


def test_only_the_pods_of_the_newest_replica_set_explain_a_rollout() -> None:
    item = render(values({})).named("Deployment", NAME)
    item = {**item, "metadata": {**item["metadata"], "uid": "uid-of-it"}}
    old, new = (shapes.replica_set(item, number) for number in (1, 2))
    failed = container("jobs", lastState=terminated(1, "from before"), restartCount=6)
    pods = [pod_of(item, failed), pod_of(item, container("jobs", state=RUNNING))]
    for pod, owner in zip(pods, (old, new), strict=True):
        pod["metadata"]["ownerReferences"] = [{"uid": owner["metadata"]["uid"]}]

    explanation = explain(Snapshot(item, pods, owners=[old, new]))

    assert explanation
    assert "from before" not in explanation.reason
    assert "jobs is not ready yet" in explanation.reason


@pytest.mark.parametrize(
    ("generation", "available", "ready"), [(1, 1, True), (2, 1, False), (1, 0, False)]
)
def test_a_rollout_is_complete_once_the_present_spec_is_available(
    generation: int, available: int, ready: bool
) -> None:
    item = {
        "kind": "Deployment",
        "metadata": {"name": NAME, "generation": generation},
        "spec": {"replicas": 1},
        "status": {
            "observedGeneration": 1,
            "replicas": 1,
            "updatedReplicas": 1,
            "availableReplicas": available,
        },
    }

    assert (explain(Snapshot(item)) is None) is ready


def test_pods_that_a_stateful_set_may_not_create_are_explained() -> None:
    item = render(values(OWN_VALKEY)).named("StatefulSet", VALKEY)
    message = (
        f"create Pod {VALKEY}-0 in StatefulSet {VALKEY} failed error: pods is forbidden: exceeded "
        "quota: small, requested: memory=4Gi, used: memory=0, limited: memory=2Gi"
    )

    explanation = explain(
        Snapshot(item, events=[event("StatefulSet", VALKEY, "FailedCreate", message)])
    )

    assert explanation
    assert "The quota 'small' is exceeded" in explanation.reason


@pytest.mark.parametrize(
    ("jobs", "others", "secret"),
    [
        (
            {"redis": {"secretName": "team-redis"}},
            {"networkPolicy": {"enabled": False}},
            "team-redis",
        ),
        ({"apiKeys": {"secretName": "callers"}}, {}, "callers"),
        ({"webhooks": {"secretName": "signing"}}, {}, "signing"),
        ({"predictorApiKey": {"secretName": "worker"}}, {}, "worker"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_the_doctor_finds_a_missing_secret_of_the_program(
    deployment: Deployment, jobs: Object, others: Object, secret: str
) -> None:
    deploys(deployment, jobs, **others)

    done = deployment.run("doctor")

    assert done.code == 5
    assert f"secret {secret!r} does not exist, and deployment/{NAME} needs it" in done.out
    assert f"create secret generic {secret}" in done.out


def test_the_doctor_finds_that_keda_is_missing(deployment: Deployment) -> None:
    deploys(deployment, {"keda": {"enabled": True}}, predictor=STANDARD)

    done = deployment.run("doctor")

    assert done.code == 5
    assert "KEDA is not installed: the cluster does not know ScaledObject" in done.out
    assert "jobs.keda.enabled=false" in done.out


@pytest.mark.parametrize(
    ("jobs", "claim"), [({}, NAME), (OWN_VALKEY, f"data-{VALKEY}-0")], ids=["sqlite", "valkey"]
)
def test_the_doctor_checks_the_class_of_the_claim_of_the_jobs(
    deployment: Deployment, jobs: Object, claim: str
) -> None:
    deploys(deployment, {**jobs, "storage": {"storageClassName": "fast"}})

    done = deployment.run("doctor")

    assert done.code == 5
    assert f"claim {claim!r} cannot be bound: storage class 'fast' does not exist" in done.out


def test_the_quota_must_leave_room_for_each_pod_of_the_program(deployment: Deployment) -> None:
    deploys(deployment, OWN_VALKEY)
    hard = {"status": {"hard": {"pods": "4"}}, "spec": {"hard": {"pods": "4"}}}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, **hard}
    deployment.api.put(quota)

    done = deployment.run("doctor")

    # The Job, the predictor, Valkey, and two of the program.
    assert "small: pods wanted 5, used 0, allowed 4" in done.out


def test_a_route_to_the_program_does_not_divide_the_requests_with_a_canary(
    deployment: Deployment,
) -> None:
    deployment.api.kinds |= GATEWAY
    canary = {"canaryTrafficPercent": 10, "canary": {"image": {"tag": "9.9.9"}}}
    predictor = {"deploymentMode": "Standard", "scaling": {"minReplicas": 1}, **canary}
    route = {"enabled": True, "parentRefs": [{"name": "public"}], "hosts": ["jobs.example.com"]}
    deploys(deployment, {"route": route}, predictor=predictor)

    done = deployment.run("doctor")

    assert "KServe divides requests with a canary only by the Gateway API" in done.out


def test_a_good_cluster_passes_with_the_program(deployment: Deployment) -> None:
    deploys(deployment, OWN_VALKEY)

    done = deployment.run("doctor")

    assert done.code == 0, done.out
    assert "fail" not in done.out


def test_the_status_names_the_program_its_valkey_and_its_claim(deployment: Deployment) -> None:
    deploys(deployment, OWN_VALKEY)

    before = deployment.run("status")
    assert deployment.run("up").code == 0
    after = deployment.run("status")

    assert before.code == 10
    assert f"deployment/{NAME}: does not exist" in before.out
    assert after.code == 0
    assert f"ok    deployment/{NAME}: ready\n" in after.out
    assert f"ok    statefulset/{VALKEY}: ready\n" in after.out
    assert f"persistentvolumeclaim/data-{VALKEY}-0: " in after.out


@pytest.mark.parametrize("enabled", [True, False])
def test_down_says_that_it_deletes_the_jobs(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, enabled: bool
) -> None:
    deploys(deployment, {"enabled": enabled})
    deployment.run("up")
    asked = []
    monkeypatch.setattr(Confirm, "ask", lambda question, **_: asked.append(str(question)))

    deployment.run("down", terminal=True)

    assert ("the jobs with their pictures" in asked[0]) is enabled
