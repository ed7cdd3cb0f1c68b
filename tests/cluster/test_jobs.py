"""Jobs on a real cluster: one that is submitted while no predictor runs makes its picture.

It needs KServe with Knative, and the images of the predictor, the downloader and the jobs program
in ``CLUSTER_TEST_REGISTRY`` (``host/team/``).
"""

from __future__ import annotations

from functools import cache

import helm_python
import yaml

from hack.render_manifests import CHART, RELEASE, values_of
from tests.chart.rendering import HOOK, Object

from .conftest import Cluster
from .test_cpu_demo import IMAGE, JOB, SERVICE

PROGRAM = "deployment/stable-diffusion-jobs"
PREDICTOR_PODS = "serving.kserve.io/inferenceservice=stable-diffusion"
TEST_POD = "stable-diffusion-test"


@cache
def objects(namespace: str, registry: str) -> list[Object]:
    """The CPU demo with the jobs program, and a predictor that soon scales to zero."""
    values = values_of("cpu-demo")
    values["predictor"]["scaling"] = {"podRetentionPeriod": "0s"}
    values["jobs"] = {"enabled": True}
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(values, name=RELEASE, namespace=namespace)
    documents = [text for name, text in texts.items() if name.endswith(".yaml")]
    parsed = (yaml.safe_load_all(IMAGE.sub(registry, text)) for text in documents)
    return [item for each in parsed for item in each if item]


def installed(namespace: str, registry: str) -> str:
    """What Helm installs: all objects but the pod of ``helm test``."""
    found = objects(namespace, registry)
    return yaml.safe_dump_all(one for one in found if one["metadata"]["name"] != TEST_POD)


def pod_that_submits_a_job(namespace: str, registry: str) -> Object:
    """The pod of ``helm test``, which requests only the picture of the job."""
    (pod,) = (one for one in objects(namespace, registry) if one["metadata"]["name"] == TEST_POD)
    assert HOOK in pod["metadata"]["annotations"]
    (container,) = pod["spec"]["containers"]
    *settings, _predict, job = container["args"]
    return {**pod, "spec": {**pod["spec"], "containers": [{**container, "args": [*settings, job]}]}}


def test_the_objects_are_those_that_the_test_waits_for() -> None:
    pod = pod_that_submits_a_job("pictures", "host/team/")
    names = {
        f"{one['kind'].lower()}/{one['metadata']['name']}"
        for one in yaml.safe_load_all(installed("pictures", "host/team/"))
    }
    *_, address = pod["spec"]["containers"][0]["args"]

    assert {PROGRAM, JOB, SERVICE} <= names
    assert address == "http://stable-diffusion-jobs.pictures.svc:80/v1/jobs"


def test_a_job_wakes_up_a_predictor_without_pods(cluster: Cluster, registry: str) -> None:
    cluster.kubectl("apply", "-f", "-", given=installed(cluster.namespace, registry))
    cluster.kubectl("wait", "--for=condition=complete", "--timeout=10m", JOB, seconds=660)
    cluster.kubectl("wait", "--for=condition=ready", "--timeout=20m", SERVICE, seconds=1260)
    cluster.kubectl("rollout", "status", "--timeout=5m", PROGRAM, seconds=360)
    no_pods = ("--for=delete", "pod", "--selector", PREDICTOR_PODS)
    cluster.kubectl("wait", *no_pods, "--timeout=10m", seconds=660)

    # The pod of the test of the CPU demo has the same name.
    cluster.kubectl("delete", "pod", TEST_POD, "--ignore-not-found")
    pod = pod_that_submits_a_job(cluster.namespace, registry)
    cluster.kubectl("apply", "-f", "-", given=yaml.safe_dump(pod))
    succeeded = "--for=jsonpath={.status.phase}=Succeeded"
    cluster.kubectl("wait", succeeded, "--timeout=20m", f"pod/{TEST_POD}", seconds=1260)

    assert "/v1/jobs: a PNG of 64 x 64" in cluster.kubectl("logs", TEST_POD)
