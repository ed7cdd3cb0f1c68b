"""The CPU example on a real cluster: download, readiness, a picture, a second apply.

It needs KServe, and both images in ``CLUSTER_TEST_REGISTRY`` (``host/team/``).
"""

from __future__ import annotations

import re

import pytest
import yaml

from hack import render_manifests
from tests.chart.rendering import HOOK, ROOT, Object

from .conftest import Cluster

IMAGE = re.compile(r"(?<=image: )(?=stable-diffusion-)")
JOB = "job/stable-diffusion-download"
SERVICE = "inferenceservice/stable-diffusion"


@pytest.fixture(scope="module")
def manifests(registry: str, cluster: Cluster) -> str:
    """The overlay with its images from the registry."""
    built = cluster.kubectl("kustomize", str(ROOT / "examples/cpu-demo"))
    return IMAGE.sub(registry, built)


def pod_of_helm_test(registry: str, namespace: str) -> Object:
    """The pod of ``helm test``, as Helm would create it."""
    text = render_manifests.render("cpu-demo")["tests/picture.yaml"]
    pod: Object = yaml.safe_load(IMAGE.sub(registry, text))
    assert HOOK in pod["metadata"]["annotations"]
    (container,) = pod["spec"]["containers"]
    container["args"] = [
        one.replace(".default.svc", f".{namespace}.svc") for one in container["args"]
    ]
    return pod


def test_the_server_accepts_every_object(cluster: Cluster, manifests: str) -> None:
    cluster.kubectl("apply", "--dry-run=server", "-f", "-", given=manifests)


def test_the_demo_is_downloaded_and_draws_a_picture(
    cluster: Cluster, manifests: str, registry: str
) -> None:
    cluster.kubectl("apply", "-f", "-", given=manifests)
    cluster.kubectl("wait", "--for=condition=complete", "--timeout=10m", JOB, seconds=660)
    cluster.kubectl("wait", "--for=condition=ready", "--timeout=20m", SERVICE, seconds=1260)

    pod = pod_of_helm_test(registry, cluster.namespace)
    cluster.kubectl("apply", "-f", "-", given=yaml.safe_dump(pod))
    succeeded = "--for=jsonpath={.status.phase}=Succeeded"
    name = f"pod/{pod['metadata']['name']}"
    cluster.kubectl("wait", succeeded, "--timeout=20m", name, seconds=1260)
    assert "a PNG of 64 x 64" in cluster.kubectl("logs", name)


def test_applying_it_again_changes_nothing(cluster: Cluster, manifests: str) -> None:
    again = cluster.kubectl("apply", "-f", "-", given=manifests)
    assert all(line.endswith("unchanged") for line in again.splitlines())
