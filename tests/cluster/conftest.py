"""A namespace of its own on a real cluster, and the reason where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest


class Cluster:
    """``kubectl`` within one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def kubectl(self, *arguments: str, given: str | None = None, seconds: int = 60) -> str:
        """What a command prints; it must succeed."""
        command = ["kubectl", "--namespace", self.namespace, *arguments]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, input=given, timeout=seconds
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout


def missing() -> str | None:
    """Why the tests cannot run, if so."""
    configs = os.environ.get("KUBECONFIG", "").split(os.pathsep)
    if not any(Path(config).is_file() for config in configs):
        return "KUBECONFIG names no file: there is no cluster to test on"
    if shutil.which("kubectl") is None:
        return "kubectl is not installed"
    if not os.environ.get("CLUSTER_TEST_REGISTRY"):
        return "CLUSTER_TEST_REGISTRY does not say where the cluster finds the images"
    return None


@pytest.fixture(scope="session")
def registry() -> str:
    """What stands in front of the images' names, with the slash."""
    if reason := missing():
        pytest.skip(reason)
    return os.environ["CLUSTER_TEST_REGISTRY"]


@pytest.fixture(scope="session")
def cluster(registry: str) -> Iterator[Cluster]:
    """A fresh namespace that asks for restricted pods; gone afterwards."""
    opened = Cluster(f"pictures-{uuid.uuid4().hex[:8]}")
    opened.kubectl("create", "namespace", opened.namespace)
    try:
        restricted = "pod-security.kubernetes.io/warn=restricted"
        opened.kubectl("label", "namespace", opened.namespace, restricted)
        yield opened
    finally:
        opened.kubectl("delete", "namespace", opened.namespace, "--wait=false")
