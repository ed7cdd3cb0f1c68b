"""``predict``, ``logs`` and ``down``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rich.prompt import Confirm

from deploy.objects import load_objects
from tests.deploy import shapes
from tests.deploy.conftest import PROGRESS, ROOT, Deployment

COUNT = len(load_objects(ROOT / "manifests"))


def test_predict_sends_the_seed_and_prints_the_curl_command(deployment: Deployment) -> None:
    deployment.run("up")

    done = deployment.run(
        "predict", "a fish's bicycle", "--seed", 7, "--folder", deployment.manifests, folder=False
    )

    assert done.code == 0
    assert deployment.predictor.bodies[-1] == {
        "prompt": "a fish's bicycle",
        "parameters": {"seed": 7},
    }
    assert "PNG" in done.out
    assert f"Host: {shapes.HOST}" in done.out


def test_predict_before_up(deployment: Deployment) -> None:
    done = deployment.run("predict", "a fish", "--folder", deployment.manifests, folder=False)

    assert done.code == 10
    assert "run `up`" in done.err


def test_an_unreachable_service_comes_with_the_port_forward_command(
    deployment: Deployment,
) -> None:
    deployment.run("up")
    host = deployment.predictor.address.removeprefix("http://")
    deployment.predictor.stop()
    deployment.api.update("InferenceService", shapes.SERVICE, status=shapes.ready_status(host))

    done = deployment.run("predict", "a fish", "--folder", deployment.manifests, folder=False)

    assert done.code == 11
    assert "port-forward service/istio-ingressgateway 8080:80" in done.err
    assert "--address http://127.0.0.1:8080" in done.err


def test_a_gateway_that_does_not_know_the_host_is_reported(deployment: Deployment) -> None:
    deployment.run("up")
    deployment.predictor.host = "another.example.com"

    done = deployment.run("predict", "a fish", "--folder", deployment.manifests, folder=False)

    assert done.code == 11
    assert f"does not know the host {shapes.HOST!r}" in done.err


def test_an_output_that_cannot_be_written_is_a_usage_error(deployment: Deployment) -> None:
    deployment.run("up")
    (deployment.folder / "picture.png").unlink()
    (deployment.folder / "picture.png").mkdir()

    done = deployment.run("predict", "a fish", "--folder", deployment.manifests, folder=False)

    assert done.code == 2
    assert "--output" in done.err


def test_one_of_several_services_must_be_chosen(deployment: Deployment, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    source = (deployment.manifests / "03-inference-service.yaml").read_text()
    (folder / "a.yaml").write_text(source)
    (folder / "b.yaml").write_text(source.replace("name: stable-diffusion\n", "name: other\n"))

    done = deployment.run("predict", "a fish", "--folder", folder, folder=False)

    assert done.code == 2
    assert "other" in done.err
    assert "--service" in done.err


def test_logs_of_the_download(deployment: Deployment) -> None:
    deployment.run("up")
    deployment.api.logs[shapes.JOB_POD] = lambda: PROGRESS

    done = deployment.run("logs", "download", "--folder", deployment.manifests, folder=False)

    assert done.code == 0
    assert done.out.splitlines() == PROGRESS


def test_logs_of_a_predictor_without_a_pod(deployment: Deployment) -> None:
    deployment.run("up")

    done = deployment.run("logs", "--folder", deployment.manifests, folder=False)

    assert done.code == 10
    assert "a request starts one" in done.err


def test_logs_of_the_predictor_leave_the_sidecar_out(deployment: Deployment) -> None:
    deployment.run("up")
    both = [
        shapes.container("queue-proxy", state={"running": {}}),
        shapes.container(state={"running": {}}),
    ]
    deployment.api.put(shapes.pod(phase="Running", statuses=both))
    deployment.api.logs[shapes.POD] = lambda: ["[loading] not markup"]

    done = deployment.run("logs", "predictor", "--folder", deployment.manifests, folder=False)

    assert done.out == "[loading] not markup\n"
    container = next(
        q["container"] for _, p, q in deployment.api.requests if p.endswith(f"{shapes.POD}/log")
    )
    assert container == "kserve-container"


def test_down_without_a_terminal_and_without_yes_deletes_nothing(deployment: Deployment) -> None:
    deployment.run("up")

    done = deployment.run("down")

    assert done.code == 12
    assert "--keep-weights" in done.err
    assert deployment.api.requested("DELETE") == []


@pytest.mark.parametrize(
    ("flags", "weights"), [(["--yes"], False), (["--keep-weights"], True)], ids=["yes", "keep"]
)
def test_down_deletes_all_but_kept_weights(
    deployment: Deployment, flags: list[str], weights: bool
) -> None:
    deployment.run("up")

    done = deployment.run("down", *flags)

    assert done.code == 0
    left = {kind for kind in ("InferenceService", "Job", "Secret") if _ours(deployment, kind)}
    assert left == set()
    assert bool(_ours(deployment, "PersistentVolumeClaim")) == weights
    deleted = [path.split("/")[-2] for path in deployment.api.requested("DELETE")]
    assert deleted[0] == "inferenceservices"
    assert "deletes them in the background" in done.out


@pytest.mark.parametrize("answer", [True, False])
def test_down_asks_before_it_deletes_the_weights(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    deployment.run("up")
    asked = []
    monkeypatch.setattr(Confirm, "ask", lambda question, **_: asked.append(str(question)) or answer)

    done = deployment.run("down", terminal=True)

    assert done.code == 0
    (question,) = asked
    assert "stable-diffusion-models (20Gi)" in question
    assert bool(_ours(deployment, "PersistentVolumeClaim")) != answer
    assert not _ours(deployment, "InferenceService")


def test_a_dry_run_of_down_lists_what_it_would_delete(deployment: Deployment) -> None:
    deployment.run("up")
    before = dict(deployment.api.objects)

    done = deployment.run("down", "--dry-run")

    assert done.code == 0
    assert deployment.api.objects == before
    assert done.out.count("would be deleted (dry run)") == COUNT


def test_down_can_run_twice(deployment: Deployment) -> None:
    deployment.run("up")
    deployment.run("down", "--yes")

    done = deployment.run("down")

    assert done.code == 0
    assert done.out.count("does not exist") == COUNT


def test_down_keeps_the_namespace(deployment: Deployment, tmp_path: Path) -> None:
    folder = tmp_path / "namespaced"
    shutil.copytree(deployment.manifests, folder)
    (folder / "Kustomization").unlink()
    (folder / "namespace.yaml").write_text(
        "{apiVersion: v1, kind: Namespace, metadata: {name: images}}"
    )
    deployment.manifests = folder
    complete = {"conditions": [shapes.condition("Complete", "True")]}
    deployment.api.controllers["Job"] = lambda api, _: api.update(
        "Job", shapes.JOB, status=complete
    )
    up = deployment.run("up", "--namespace", "images")

    down = deployment.run("down", "--yes", "--namespace", "images")

    assert (up.code, down.code) == (0, 0), up.err
    assert deployment.api.find("Namespace", "images")


def _ours(deployment: Deployment, kind: str) -> object:
    names = {
        "InferenceService": shapes.SERVICE,
        "Job": shapes.JOB,
        "Secret": "stable-diffusion-huggingface",
        "PersistentVolumeClaim": shapes.CLAIM,
    }
    return deployment.api.find(kind, names[kind])
