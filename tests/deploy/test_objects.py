"""Reading objects from plain files, Kustomizations and one file; and invalid content."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deploy.errors import UsageError
from deploy.objects import load_objects, title
from tests.deploy.conftest import ROOT

MANIFESTS = ROOT / "manifests"
CONFIG_MAP = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n"


def test_dependencies_come_first_and_the_service_last() -> None:
    kinds = [item["kind"] for item in load_objects(MANIFESTS)]

    assert kinds.index("PersistentVolumeClaim") < kinds.index("Job")
    assert kinds.index("Secret") < kinds.index("Job")
    assert kinds[-1] == "InferenceService"


def test_a_kustomization_that_only_lists_files_needs_no_kubectl(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")

    assert load_objects(MANIFESTS)


def test_a_kustomization_may_leave_a_file_out(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(CONFIG_MAP)
    (tmp_path / "b.yaml").write_text(CONFIG_MAP.replace("name: a", "name: b"))
    (tmp_path / "kustomization.yaml").write_text("resources: [b.yaml]\n")

    assert [title(item) for item in load_objects(tmp_path)] == ["configmap/b"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_an_overlay_is_built_by_kubectl(tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS, tmp_path / "base")
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text("resources: [../base]\nnamePrefix: my-\n")

    titles = [title(item) for item in load_objects(overlay)]

    assert "inferenceservice/my-stable-diffusion" in titles


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_an_overlay_that_cannot_be_built_has_kubectls_message(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [../nowhere]\nnamePrefix: my-\n")

    with pytest.raises(UsageError, match="nowhere"):
        load_objects(tmp_path)


def test_an_overlay_without_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: []\nnamePrefix: my-\n")
    monkeypatch.setenv("PATH", "")

    with pytest.raises(UsageError, match="kubectl is not installed"):
        load_objects(tmp_path)


def test_one_file_of_several_documents(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(f"---\n{CONFIG_MAP}---\n---\n{CONFIG_MAP.replace('name: a', 'name: b')}")

    assert [title(item) for item in load_objects(path)] == ["configmap/a", "configmap/b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "contains no Kubernetes objects"),
        ("a: [", "is not valid YAML"),
        ("kind: ConfigMap\n", "every document needs apiVersion, kind and metadata.name"),
        ("- a list\n", "every document needs"),
        ("!!python/object/apply:os.system [id]\n", "is not valid YAML"),
    ],
)
def test_what_is_not_kubernetes_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "a.yaml").write_text(text)

    with pytest.raises(UsageError, match=expected):
        load_objects(tmp_path)
