"""The plain manifests are the rendered chart."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from hack import chart_values, render_manifests

from .rendering import CHART, ROOT, Object, case

MANIFESTS = ROOT / "manifests"


def objects_applied_from_the_folder() -> list[Object]:
    """The objects that ``kubectl apply -f manifests/`` reads: only from these three extensions."""
    files = [path for path in MANIFESTS.iterdir() if path.suffix in (".yaml", ".yml", ".json")]
    return [item for path in sorted(files) for item in yaml.safe_load_all(path.read_text("utf-8"))]


def test_no_generated_file_has_drifted(capsys: pytest.CaptureFixture[str]) -> None:
    assert render_manifests.main(["--check"]) == 0, capsys.readouterr().err


def test_a_drifted_file_is_reported_with_the_command_that_fixes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(MANIFESTS, tmp_path / "manifests")
    monkeypatch.setattr(render_manifests, "ROOT", tmp_path)
    monkeypatch.setattr(render_manifests, "MANIFESTS", copy)
    edited = copy / "00-model-pvc.yaml"
    edited.write_text(edited.read_text("utf-8").replace("20Gi", "30Gi"), "utf-8")
    (copy / "04-forgotten.yaml").write_text("kind: ConfigMap\n", "utf-8")

    assert render_manifests.main(["--check"]) == 1
    complaint = capsys.readouterr().err
    assert "manifests/00-model-pvc.yaml" in complaint
    assert "manifests/04-forgotten.yaml" in complaint
    assert "make manifests" in complaint
    assert "01-huggingface-secret" not in complaint


def test_the_folder_contains_every_object_of_the_chart() -> None:
    applied = objects_applied_from_the_folder()
    assert sorted(item["kind"] for item in applied) == case("manifests").kinds()
    assert [item for item in applied if item not in case("manifests").objects] == []


def test_every_template_has_a_manifest_or_is_optional() -> None:
    folder = CHART / "templates"
    templates = {str(path.relative_to(folder)) for path in folder.rglob("*.yaml")}
    plain = set(render_manifests.TEMPLATES.values())
    assert templates == plain | render_manifests.OPTIONAL_TEMPLATES
    assert not plain & render_manifests.OPTIONAL_TEMPLATES


def test_the_manifests_equal_the_default_rendering() -> None:
    snapshot = yaml.dump_all(objects_applied_from_the_folder(), sort_keys=True)
    default = yaml.dump_all(in_the_order_of_the_files(case("default").objects), sort_keys=True)
    job = case("default").one("Job")["metadata"]["name"]
    assert (
        default.replace("managed-by: Helm", "managed-by: kubectl").replace(
            job, "stable-diffusion-download"
        )
        == snapshot
    )


def in_the_order_of_the_files(objects: list[Object]) -> list[Object]:
    kinds = [item["kind"] for item in objects_applied_from_the_folder()]
    return sorted(objects, key=lambda item: kinds.index(item["kind"]))


def test_the_kustomization_lists_the_manifests_and_is_not_one_of_them() -> None:
    kustomization = yaml.safe_load((MANIFESTS / "Kustomization").read_text("utf-8"))
    assert kustomization["resources"] == sorted(path.name for path in MANIFESTS.glob("*.yaml"))


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_builds_the_same_objects() -> None:
    command = ["kubectl", "kustomize", str(MANIFESTS)]
    built = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    objects = list(yaml.safe_load_all(built))
    assert len(objects) == len(objects_applied_from_the_folder())
    assert all(item in objects for item in objects_applied_from_the_folder())


def test_the_manifests_do_not_mention_a_release() -> None:
    for item in objects_applied_from_the_folder():
        assert item["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "kubectl"
    (job,) = [item for item in objects_applied_from_the_folder() if item["kind"] == "Job"]
    assert job["metadata"]["name"] == "stable-diffusion-download"


def test_every_value_is_in_the_table_with_its_default() -> None:
    values_yaml = (CHART / "values.yaml").read_text("utf-8")
    readme = (CHART / "README.md").read_text("utf-8")
    documented = {value.key: value.default for value in chart_values.documented_values(values_yaml)}
    assert documented["predictor.concurrency"] == 16
    assert documented["storage.accessModes"] == ["ReadWriteMany"]
    for key in documented:
        assert f"\n| `{key}` | " in readme


def test_a_value_without_a_comment_is_an_error() -> None:
    with pytest.raises(chart_values.UndocumentedValueError, match=r"outer\.inner"):
        chart_values.documented_values("outer:\n  # a plain remark\n  inner: 1\n")
