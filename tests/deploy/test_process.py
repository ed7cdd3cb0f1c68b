"""``python -m deploy`` as people run it: a process, a kubeconfig by the environment, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from tests.deploy import shapes
from tests.deploy.conftest import ROOT, Deployment


def command(deployment: Deployment, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "deploy", *arguments],
        cwd=ROOT,
        env={**os.environ, "KUBECONFIG": str(deployment.kubeconfig), "UP": "nothing of ours"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_up_from_the_repository_with_nothing_but_the_environment(deployment: Deployment) -> None:
    output = deployment.folder / "out.png"

    process = command(
        deployment, "up", "--address", deployment.predictor.address, "--output", str(output)
    )
    out, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (0, "")
    assert output.read_bytes().startswith(b"\x89PNG")
    assert f"inferenceservice/{shapes.SERVICE} is ready" in out


def test_ctrl_c_leaves_everything_and_says_so(deployment: Deployment) -> None:
    del deployment.api.controllers["InferenceService"]
    process = command(deployment, "up")
    deadline = time.monotonic() + 30
    while not deployment.api.find("InferenceService", shapes.SERVICE):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert process.stdout
    while "has not looked at the InferenceService" not in process.stdout.readline():
        assert time.monotonic() < deadline

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "Everything stays as it is on the cluster" in err
    assert "Traceback" not in err
    assert deployment.api.find("InferenceService", shapes.SERVICE)
    assert deployment.api.asked("DELETE") == []
