"""Fixtures: a temporary namespace on a real cluster, or a skip with the reason."""

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
        """Run a command, which must succeed, and return its output."""
        command = ["kubectl", "--namespace", self.namespace, *arguments]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, input=given, timeout=seconds
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout


def missing() -> str | None:
    """The reason why the tests cannot run, if any."""
    configs = os.environ.get("KUBECONFIG", "").split(os.pathsep)
    if not any(Path(config).is_file() for config in configs):
        return "KUBECONFIG names no file; these tests need a cluster"
    if shutil.which("kubectl") is None:
        return "kubectl is not installed"
    if not os.environ.get("CLUSTER_TEST_REGISTRY"):
        return "CLUSTER_TEST_REGISTRY is not set; it is the prefix of the images' names"
    return None


@pytest.fixture(scope="session")
def registry() -> str:
    """The prefix of the images' names, with the slash."""
    if reason := missing():
        pytest.skip(reason)
    return os.environ["CLUSTER_TEST_REGISTRY"]


@pytest.fixture(scope="session")
def cluster(registry: str) -> Iterator[Cluster]:
    """A new namespace that warns about pods that are not restricted; deleted afterwards."""
    opened = Cluster(f"pictures-{uuid.uuid4().hex[:8]}")
    opened.kubectl("create", "namespace", opened.namespace)
    try:
        restricted = "pod-security.kubernetes.io/warn=restricted"
        opened.kubectl("label", "namespace", opened.namespace, restricted)
        yield opened
    finally:
        opened.kubectl("delete", "namespace", opened.namespace, "--wait=false")
