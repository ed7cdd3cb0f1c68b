"""A working cluster, and the deploy command run against it in this process."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deploy.__main__ import main
from deploy.console import Reporter
from tests.deploy import shapes
from tests.deploy.api_server import CORE, KNATIVE, KSERVE, ApiServer
from tests.deploy.predictor import Predictor

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRESS = [
    "12:00:00 stable-diffusion-v1-5: 3 files, 2.74 GB",
    "12:00:05 stable-diffusion-v1-5: 1.20 of 2.74 GB (43 %), 85.3 MB/s, 18 s left",
    "12:00:23 stable-diffusion-v1-5: 2.74 of 2.74 GB (100 %), 85.3 MB/s, 0 s left",
]


@dataclass
class Run:
    """A command's output and exit code."""

    code: int
    out: str
    err: str


@dataclass
class Deployment:
    """The command, its cluster, and the model behind the gateway.

    ``printed`` is the output of the current command so far.
    """

    api: ApiServer
    predictor: Predictor
    kubeconfig: Path
    folder: Path
    manifests: Path = field(default=ROOT / "manifests")
    printed: io.StringIO = field(default_factory=io.StringIO)

    def run(self, verb: str, *flags: object, terminal: bool = False, folder: bool = True) -> Run:
        """Run one verb in this process, against the folder of manifests."""
        self.printed = out = io.StringIO()
        err = io.StringIO()
        arguments = [verb, *([str(self.manifests)] if folder else []), *map(str, flags)]
        arguments += ["--kubeconfig", str(self.kubeconfig)]
        if verb == "up" and "--timeout" not in flags:
            arguments += ["--timeout", "30s"]
        if verb in ("up", "predict"):
            arguments += ["--address", self.predictor.address]
            arguments += ["--output", str(self.folder / "picture.png")]
        reporter = Reporter(
            Console(file=out, highlight=False, soft_wrap=True, force_terminal=terminal),
            Console(file=err, highlight=False, soft_wrap=True),
        )
        return Run(main(arguments, reporter), out.getvalue(), err.getvalue())


def complete_download(api: ApiServer, item: dict[str, Any]) -> None:
    """Act as the Job controller and a downloader that succeed."""
    api.put(shapes.job_pod())
    api.logs[shapes.JOB_POD] = lambda: downloading(api)


def downloading(api: ApiServer) -> Iterator[str]:
    """A log that grows while it is read; the Job completes at its end."""
    yield from PROGRESS
    api.put(shapes.job_pod(0))
    api.update("Job", shapes.JOB, status={"conditions": [shapes.condition("Complete", "True")]})


def become_ready(api: ApiServer, item: dict[str, Any]) -> None:
    """Act as KServe that succeeds."""
    status = shapes.ready_status(generation=item["metadata"]["generation"])
    api.update("InferenceService", shapes.SERVICE, status=status)


def bind(api: ApiServer, item: dict[str, Any]) -> None:
    """Act as a provisioner that succeeds."""
    api.update(
        "PersistentVolumeClaim",
        item["metadata"]["name"],
        status={
            "phase": "Bound",
            "capacity": item["spec"]["resources"]["requests"],
            "accessModes": item["spec"]["accessModes"],
        },
    )


def good_cluster() -> ApiServer:
    """A cluster with KServe 0.21, stock Knative, a GPU node and file storage."""
    api = ApiServer({**CORE, **KSERVE, **KNATIVE})
    for item in (
        shapes.namespace("default"),
        shapes.kserve_controller(),
        shapes.config_map(
            "inferenceservice-config", "kserve", {"deploy": '{"defaultDeploymentMode": "Knative"}'}
        ),
        shapes.config_map("config-features", "knative-serving", {"_example": "..."}),
        shapes.node(),
        shapes.storage_class("nfs", "nfs.csi.k8s.io", default=True),
    ):
        api.put(item)
    api.controllers = {
        "Job": complete_download,
        "InferenceService": become_ready,
        "PersistentVolumeClaim": bind,
    }
    return api


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    api, predictor = good_cluster(), Predictor(shapes.HOST)
    kubeconfig = api.start(tmp_path)
    try:
        yield Deployment(api, predictor, kubeconfig, tmp_path)
    finally:
        api.stop()
        predictor.stop()
