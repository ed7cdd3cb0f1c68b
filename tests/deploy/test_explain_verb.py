"""``explain NAME``: an InferenceService that somebody else applied, with any image or runtime."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.explain import Snapshot, explain_origin, explain_service
from tests.deploy import shapes
from tests.deploy.api_server import KSERVE
from tests.deploy.conftest import Deployment
from tests.deploy.shapes import condition, container, event, terminated, waiting

Object = dict[str, Any]
IMAGE = "ghcr.io/somebody/llm-server:v2"
LABEL = "serving.kserve.io/inferenceservice"
RUNNING: Object = {"running": {}}
WAITING = (
    condition("PredictorReady", "Unknown", "RevisionMissing", "Configuration is waiting"),
    condition("Ready", "Unknown"),
)


def foreign(*conditions: Object, spec: Object | None = None, **status: Any) -> Object:
    """A service with an image of its own; ``spec`` replaces its whole spec."""
    containers = [{"name": "kserve-container", "image": IMAGE, "env": [{"name": "PORT"}]}]
    return {
        **shapes.service(*(conditions or WAITING), **status),
        "spec": spec or {"predictor": {"containers": containers}},
    }


def of_runtime() -> Object:
    model = {"modelFormat": {"name": "sklearn"}, "storageUri": "s3://models/iris"}
    return {"predictor": {"model": model}}


def running(*statuses: Object, init: list[Object] | None = None, phase: str = "Running") -> Object:
    pod = shapes.pod(phase=phase, statuses=list(statuses))
    pod["spec"] = {"containers": [{"name": "kserve-container", "image": IMAGE}]}
    pod["status"]["initContainerStatuses"] = init or []
    return pod


def explain(*pods: Object, events: list[Object] | None = None, item: Object | None = None) -> str:
    explanation = explain_service(Snapshot(item or foreign(), pods, [], events or []))
    assert explanation
    return str(explanation)


def unhealthy(message: str, reason: str = "Unhealthy", name: str = "kserve-container") -> Object:
    found = event("Pod", shapes.POD, reason, message)
    found["involvedObject"]["fieldPath"] = f"spec.containers{{{name}}}"
    return found


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            'Readiness probe failed: Get "http://10.1.2.3:8080/health": dial tcp 10.1.2.3:8080: '
            "connect: connection refused",
            ["the readiness probe of container kserve-container fails", "`containerPort`"],
        ),
        ("Startup probe failed: HTTP probe failed with statuscode: 404", ["correct the `path`"]),
        ("Readiness probe failed: HTTP probe failed with statuscode: 503", ["still loading"]),
        (
            'Liveness probe failed: Get "http://10.1.2.3:8080/": context deadline exceeded',
            ["`timeoutSeconds`"],
        ),
    ],
)
def test_a_probe_that_fails(message: str, expected: list[str]) -> None:
    text = explain(running(container(state=RUNNING)), events=[unhealthy(message)])

    assert message.partition(": ")[2] in text
    assert all(part in text for part in expected), text


def test_knatives_own_probe_is_named() -> None:
    message = "Readiness probe failed: HTTP probe failed with statuscode: 503"
    statuses = [container(state=RUNNING, ready=True), container("queue-proxy", state=RUNNING)]

    text = explain(running(*statuses), events=[unhealthy(message, name="queue-proxy")])

    assert "Knative's probe of the predictor fails" in text


def test_our_predictor_fails_its_probes_while_it_loads() -> None:
    pod = running(container(state=RUNNING))
    pod["spec"]["containers"][0]["env"] = [{"name": "PREDICTOR_MODEL_DIR", "value": "/mnt"}]
    message = "Readiness probe failed: HTTP probe failed with statuscode: 503"

    assert explain(pod, events=[unhealthy(message)]).endswith("is loading the weights.")


@pytest.mark.parametrize(("code", "expected"), [(137, True), (143, True), (1, False)])
def test_a_restart_by_the_kubelet_is_not_blamed_on_the_container(code: int, expected: bool) -> None:
    restarted = container(
        state=RUNNING, lastState=terminated(code, "the log of the server"), restartCount=2
    )
    events = [
        unhealthy("Container kserve-container failed liveness probe, will be restarted", "Killing"),
        unhealthy("Liveness probe failed: HTTP probe failed with statuscode: 404"),
    ]

    text = explain(running(restarted), events=events)

    assert ("because its liveness probe fails: HTTP probe failed" in text) == expected
    assert (f"exit code {code}" in text) != expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "botocore.exceptions.ClientError: An error occurred (403) when calling the HeadObject "
            "operation: Forbidden",
            "secret with credentials",
        ),
        (
            "RuntimeError: Failed to fetch model. The path or model s3://models/iris does not "
            "exist.",
            "Correct `storageUri`",
        ),
        ("OSError: [Errno 28] No space left on device", "`ephemeral-storage`"),
        ("socket.gaierror: [Errno -2] Name or service not known", "check DNS, proxy"),
        (
            "requests.exceptions.SSLError: HTTPSConnectionPool: certificate verify failed",
            "`caBundleConfigMapName`",
        ),
    ],
)
def test_a_storage_initializer_that_fails(said: str, expected: str) -> None:
    failed = waiting(
        "CrashLoopBackOff",
        "back-off 20s",
        name="storage-initializer",
        restartCount=3,
        lastState=terminated(1, f"INFO:root:Copying contents\n{said}"),
    )

    text = explain(
        running(waiting("PodInitializing"), init=[failed], phase="Pending"),
        item=foreign(spec=of_runtime()),
    )

    assert f"Container storage-initializer of pod {shapes.POD} has failed 3 times" in text
    assert said in text
    assert expected in text


def test_a_storage_initializer_that_runs_out_of_memory() -> None:
    killed = container("storage-initializer", lastState=terminated(137, reason="OOMKilled"))

    text = explain(running(init=[killed], phase="Pending"))

    assert "`memoryLimit` (key `storageInitializer`" in text


def test_a_storage_initializer_that_runs_is_not_an_image_that_is_pulled() -> None:
    init = [container("storage-initializer", state=RUNNING)]

    text = explain(running(waiting("PodInitializing"), init=init, phase="Pending"))

    assert text.endswith("its init container storage-initializer, which downloads the model.")


def test_a_sidecar_that_runs_while_the_image_is_pulled() -> None:
    statuses = [waiting("ContainerCreating"), container("queue-proxy", state=RUNNING, ready=True)]

    assert explain(running(*statuses, phase="Pending")).endswith("the image is being pulled.")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("exec /usr/bin/server: exec format error", "another CPU architecture"),
        ("server.py: error: unrecognized arguments: --model_name=x", "does not know these `args`"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "GPU's memory"),
        ("RuntimeError: Found no NVIDIA driver on your system.", "compare the driver"),
        ("OSError: [Errno 30] Read-only file system: '/root/.cache'", "mount an emptyDir"),
        ("FileNotFoundError: No such file or directory: '/mnt/models/model.pt'", "STORAGE_URI"),
    ],
)
def test_a_custom_predictor_of_another_image_gets_a_hint(said: str, expected: str) -> None:
    crashed = waiting("CrashLoopBackOff", lastState=terminated(2, said), restartCount=2)

    text = explain(running(crashed))

    assert said in text
    assert expected in text


def test_a_program_that_the_image_lacks() -> None:
    message = 'exec: "serve": executable file not found in $PATH: unknown'

    assert "correct `command`" in explain(running(waiting("RunContainerError", message)))


def test_a_config_map_key_that_is_missing() -> None:
    message = "couldn't find key ca.crt in ConfigMap default/company-ca"

    text = explain(running(waiting("CreateContainerConfigError", message)))

    assert "Add the key 'ca.crt' to the ConfigMap default/company-ca." in text


def test_an_evicted_pod() -> None:
    pod = running(phase="Failed")
    pod["status"] |= {
        "reason": "Evicted",
        "message": "The node was low on resource: ephemeral-storage.",
    }

    text = explain(pod)

    assert f"The kubelet evicted pod {shapes.POD}: The node was low on resource" in text
    assert "`ephemeral-storage`" in text


def test_a_model_that_no_runtime_supports() -> None:
    failure = {
        "reason": "NoSupportingRuntime",
        "message": "No runtime found to support predictor with model type: {sklearn <nil>}",
    }
    status = {"modelStatus": {"transitionStatus": "InvalidSpec", "lastFailureInfo": failure}}
    seen = Snapshot(foreign(spec=of_runtime(), **status))

    explanation = explain_service(seen)

    assert explanation
    assert explanation.fatal
    assert "no runtime for the model format 'sklearn': No runtime found" in explanation.reason
    assert "kubectl get servingruntimes,clusterservingruntimes" in explanation.advice


def test_a_failed_load_is_known_after_its_pod_is_gone() -> None:
    failure = {"reason": "ModelLoadFailed", "exitCode": 1, "message": "loading\nno such layer"}
    status = {
        "modelStatus": {"transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": failure}
    }

    assert "did not load (exit code 1): no such layer" in explain(
        item=foreign(spec=of_runtime(), **status)
    )


def test_a_service_that_is_stopped() -> None:
    item = foreign()
    item["metadata"]["annotations"] = {"serving.kserve.io/stop": "true"}

    text = explain(item=item)

    assert "is stopped" in text
    assert text.endswith(f"kubectl annotate isvc {shapes.SERVICE} serving.kserve.io/stop-")


def test_the_component_that_is_not_ready_is_explained() -> None:
    conditions = (
        condition("PredictorReady", "True"),
        condition("TransformerReady", "False", "RevisionFailed", "no such image"),
        condition("Ready", "False"),
    )
    item = foreign(*conditions, spec={"predictor": {}, "transformer": {}})
    predictor = running(container(state=RUNNING))
    predictor["metadata"]["labels"]["component"] = "predictor"

    assert explain(predictor, item=item) == "The transformer is not ready: no such image"


def test_our_own_service_needs_no_translation_of_the_advice() -> None:
    containers = [{"image": shapes.IMAGE, "env": [{"name": "PREDICTOR_MODEL_DIR"}]}]

    source = explain_origin(foreign(spec={"predictor": {"containers": containers}}))

    assert "the predictor of this project" in source.reason
    assert source.advice == ""


def test_the_origin_names_the_tool_that_keeps_the_service() -> None:
    item = foreign(spec=of_runtime(), clusterServingRuntimeName="kserve-sklearnserver")
    item["metadata"] |= {
        "annotations": {"argocd.argoproj.io/tracking-id": "apps:serving.kserve.io/..."},
        "managedFields": [
            {"manager": "argocd-controller"},
            {"manager": "manager"},
            {"manager": "kubelet", "subresource": "status"},
        ],
    }

    source = explain_origin(item)

    assert source.reason == (
        "Not from this project: runs a model of format sklearn, runtime kserve-sklearnserver. "
        "Applied by argocd-controller, kept by Argo CD."
    )
    assert "in the source of Argo CD" in source.advice


def test_the_verb_prints_everything_that_the_state_follows_from(deployment: Deployment) -> None:
    api = deployment.api
    claim = shapes.claim("Bound")
    volumes = [{"name": "m", "persistentVolumeClaim": {"claimName": shapes.CLAIM}}]
    item = foreign()
    item["spec"]["predictor"]["volumes"] = volumes
    api.put(claim)
    api.put(item)
    api.put(shapes.revision(1, condition("Ready", "Unknown", "Deploying")))
    pod = running(container(state=RUNNING, restartCount=1))
    pod["metadata"]["labels"]["serving.knative.dev/revision"] = f"{shapes.SERVICE}-predictor-00001"
    pod["spec"]["nodeName"] = "gpu-1"
    api.put(pod)
    api.put(unhealthy("Readiness probe failed: HTTP probe failed with statuscode: 404"))
    job = shapes.job(condition("Failed", "True", "BackoffLimitExceeded", "it has failed 6 times"))
    job["metadata"]["name"] = "fetch-weights"
    job["spec"] = {"template": {"spec": {"volumes": volumes}}}
    api.put(job)

    done = deployment.run("explain", shapes.SERVICE, folder=False)

    assert done.code == 10
    assert f"inferenceservice/{shapes.SERVICE} in namespace default: Knative mode" in done.out
    assert f"Not from this project: runs image {IMAGE}." in done.out
    lines = done.out.splitlines()
    for line in (
        "wait  condition PredictorReady: Unknown (RevisionMissing: Configuration is waiting)",
        f"wait  revision/{shapes.SERVICE}-predictor-00001 Ready: Unknown (Deploying)",
        f"wait  pod/{shapes.POD}: Running on node gpu-1; kserve-container running, restarts: 1",
        f"ok    persistentvolumeclaim/{shapes.CLAIM}: Bound",
        "fail  job/fetch-weights: failed (it has failed 6 times)",
    ):
        assert line in lines
    (last,) = [line for line in lines if line.startswith("warn  inferenceservice/")]
    assert "the readiness probe of container kserve-container fails" in last
    assert not [m for m, *_ in api.requests if m in ("PATCH", "DELETE")]


def test_the_verb_on_a_ready_service(deployment: Deployment) -> None:
    item = foreign()
    item["status"] = shapes.ready_status()
    deployment.api.put(item)

    done = deployment.run("explain", shapes.SERVICE, folder=False)

    assert (done.code, done.err) == (0, "")
    assert f"ready at http://{shapes.HOST}" in done.out.splitlines()[-1]


def test_the_verb_explains_our_own_download(deployment: Deployment) -> None:
    deployment.run("up")
    deployment.api.put(shapes.job_pod(5, "the target needs 5 bytes more"))
    deployment.api.update("Job", shapes.JOB, status=shapes.failed_job(5)["status"])

    done = deployment.run("explain", shapes.SERVICE, folder=False)

    assert done.code == 0
    assert "Runs the predictor of this project" in done.out
    assert f"fail  job/{shapes.JOB}: The download failed: the volume is full" in done.out


def test_a_name_that_does_not_exist_lists_those_that_do(deployment: Deployment) -> None:
    deployment.api.put(foreign())

    done = deployment.run("explain", "llama", folder=False)

    assert done.code == 2
    assert f"has no InferenceService 'llama'; available: {shapes.SERVICE}." in done.err
    assert "--namespace" in done.err


def test_explain_without_kserve(deployment: Deployment) -> None:
    del deployment.api.kinds[next(iter(KSERVE))]

    done = deployment.run("explain", "llama", folder=False)

    assert done.code == 5
    assert "KServe is not installed" in done.err
