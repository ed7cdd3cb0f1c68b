"""``up --dry-run``: what would happen to each object, with a diff and without secrets."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.diff import difference, projected
from deploy.objects import load_objects
from tests.deploy import shapes
from tests.deploy.conftest import Deployment

Object = dict[str, Any]
SECRET = "stable-diffusion-huggingface"


def edit(deployment: Deployment, tmp_path: Path, old: str, new: str) -> None:
    """Replace text in all manifests; it must occur in one of them."""
    folder = tmp_path / "edited"
    shutil.copytree(deployment.manifests, folder)
    texts = {path: path.read_text("utf-8") for path in folder.glob("*.yaml")}
    assert any(old in text for text in texts.values())
    for path, text in texts.items():
        path.write_text(text.replace(old, new), "utf-8")
    deployment.manifests = folder


def changed_lines(out: str) -> list[str]:
    """The lines that a diff removes or adds, without its headers."""
    return [
        line
        for line in out.splitlines()
        if line.startswith(("-", "+")) and not line.startswith(("---", "+++"))
    ]


def secret(**data: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s"},
        "data": data,
    }


def test_new_objects_need_no_diff(deployment: Deployment) -> None:
    count = len(load_objects(deployment.manifests))

    done = deployment.run("up", "--dry-run")

    assert done.code == 0
    assert done.out.count(" created (dry run)") == count
    assert changed_lines(done.out) == []
    assert done.out.endswith(f"\n{count} created. Nothing was changed.\n")


def test_after_up_nothing_would_change(deployment: Deployment) -> None:
    deployment.run("up")
    count = len(load_objects(deployment.manifests))

    done = deployment.run("up", "--dry-run")

    assert done.code == 0
    assert changed_lines(done.out) == []
    assert done.out.endswith(f"\n{count} unchanged. Nothing was changed.\n")


def test_only_the_fields_that_change_are_in_the_diff(
    deployment: Deployment, tmp_path: Path
) -> None:
    deployment.run("up")
    edit(deployment, tmp_path, "maxReplicas: 1", "maxReplicas: 2")
    before = dict(deployment.api.objects)

    done = deployment.run("up", "--dry-run")

    assert done.code == 0
    assert deployment.api.objects == before
    lines = done.out.splitlines()
    place = lines.index(f"inferenceservice/{shapes.SERVICE} configured (dry run)")
    assert lines[place + 1 : place + 3] == [
        f"--- inferenceservice/{shapes.SERVICE} (cluster)",
        f"+++ inferenceservice/{shapes.SERVICE} (folder)",
    ]
    # Not the generation, which the server raises, nor the status.
    assert changed_lines(done.out) == ["-    maxReplicas: 1", "+    maxReplicas: 2"]


def test_a_changed_job_shows_its_change_and_not_the_defaults_of_the_server(
    deployment: Deployment, tmp_path: Path
) -> None:
    deployment.run("up")
    job = deployment.api.find("Job", shapes.JOB)
    assert job
    spec = {**job["spec"], "parallelism": 1, "selector": {"matchLabels": {"uid": "1"}}}
    deployment.api.update("Job", shapes.JOB, spec=spec)
    edit(deployment, tmp_path, "stable-diffusion-v1-5@main", "stable-diffusion-v1-5@abc")

    done = deployment.run("up", "--dry-run")

    assert f"job/{shapes.JOB} replaced (dry run)" in done.out
    source = "hf://stable-diffusion-v1-5/stable-diffusion-v1-5"
    removed, added = changed_lines(done.out)
    assert (removed.split()[-1], added.split()[-1]) == (f"{source}@main", f"{source}@abc")
    assert deployment.api.requested("DELETE") == []


def test_a_failed_job_is_replaced_without_a_diff(deployment: Deployment) -> None:
    deployment.run("up")
    deployment.api.update("Job", shapes.JOB, status=shapes.failed_job(7)["status"])

    done = deployment.run("up", "--dry-run")

    assert f"job/{shapes.JOB} replaced (dry run)" in done.out
    assert changed_lines(done.out) == []


@pytest.mark.parametrize("section", ["data", "stringData"])
def test_the_values_of_a_secret_are_never_printed(
    deployment: Deployment, tmp_path: Path, section: str
) -> None:
    deployment.run("up")
    stored = deployment.api.find("Secret", SECRET)
    assert stored
    applied = yaml.safe_dump({**stored, "data": {"token": "b2xkLXNlY3JldA=="}})
    values = {"token": "b2xkLXNlY3JldA==", "same": "c2FtZS1zZWNyZXQ="}
    deployment.api.put({**stored, section: values})
    folder = tmp_path / "secret"
    shutil.copytree(deployment.manifests, folder)
    path = folder / "01-huggingface-secret.yaml"
    item = yaml.safe_load(path.read_text("utf-8"))
    item["metadata"]["annotations"] = {
        "kubectl.kubernetes.io/last-applied-configuration": applied,
    }
    item[section] = {"token": "bmV3LXNlY3JldA==", "added": "YWRkZWQtc2VjcmV0"}
    path.write_text(yaml.safe_dump(item), "utf-8")
    deployment.manifests = folder

    done = deployment.run("up", "--dry-run")

    assert done.code == 0
    assert changed_lines(done.out) == [
        "+  added: '***'",
        "-  token: '*** (before)'",
        "+  token: '*** (after)'",
    ]
    for value in (*values.values(), *item[section].values()):
        assert value not in done.out + done.err


def test_what_the_server_sets_is_left_out() -> None:
    before, after = shapes.claim("Pending"), shapes.claim("Bound")
    for number, item in enumerate((before, after)):
        fields = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp")
        item["metadata"] |= dict.fromkeys(fields, number)

    assert difference(before, after) == []


def test_equal_values_of_a_secret_are_equal() -> None:
    assert difference(secret(a="eA=="), secret(a="eA==")) == []


def test_a_secret_that_loses_a_key() -> None:
    lines = difference(secret(a="eA==", b="eQ=="), secret(a="eA=="))

    assert [line for line in lines if line.startswith("-  ")] == ["-  b: '***'"]


def test_list_items_are_compared_by_name_or_place() -> None:
    shape = {"env": [{"name": "B", "value": 1}], "rules": [{"action": 1}]}
    stored = {
        "env": [{"name": "A", "value": 0}, {"name": "B", "value": 2, "default": 3}],
        "rules": [{"action": 2, "default": 3}, {"action": 4, "default": 5}],
        "default": 6,
    }

    assert projected(stored, shape) == {
        "env": [{"name": "A", "value": 0}, {"name": "B", "value": 2}],
        "rules": [{"action": 2}, {"action": 4, "default": 5}],
    }


def test_a_folder_with_a_new_namespace_of_its_own(deployment: Deployment, tmp_path: Path) -> None:
    folder = tmp_path / "namespaced"
    shutil.copytree(deployment.manifests, folder)
    (folder / "Kustomization").unlink()
    (folder / "namespace.yaml").write_text(yaml.safe_dump(shapes.namespace("images")))
    deployment.manifests = folder

    done = deployment.run("up", "--dry-run", "--namespace", "images")

    assert (done.code, done.err) == (0, "")
    assert "namespace/images created (dry run)\n" in done.out
    expected = f"inferenceservice/{shapes.SERVICE} created (dry run, not validated: its namespace"
    assert expected in done.out
    assert deployment.api.requested("PATCH") == []
