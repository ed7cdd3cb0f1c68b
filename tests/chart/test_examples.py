"""The examples: each overlay builds the same objects as the chart with the example's values."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from hack import render_manifests

from .rendering import HOOK, ROOT, Object, plain_env, render
from .strictness import operator_problems, sdk_problems
from .test_chart_api_fields import FOREIGN_KINDS, SCHEMAS

EXAMPLES = ROOT / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/values.yaml"))
EXPECTED = {
    "cpu-demo",
    "knative-scale-to-zero",
    "multi-model",
    "sdxl-refiner",
    "shared-predictor",
    "standard-hpa",
    "standard-keda",
}
needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not installed"
)


@cache
def built(name: str) -> list[Object]:
    """The objects of an example's overlay."""
    command = ["kubectl", "kustomize", str(EXAMPLES / name)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(yaml.load_all(text, yaml.CSafeLoader))


@cache
def rendered(name: str) -> list[Object]:
    """The chart rendered with an example's values, in the form of the plain manifests."""
    texts = render_manifests.render(name).items()
    parsed = [
        item
        for path, text in texts
        if not path.endswith(".txt")
        for item in yaml.load_all(text, yaml.CSafeLoader)
    ]
    return [item for item in parsed if item and HOOK not in item["metadata"].get("annotations", {})]


def comparable(objects: list[Object]) -> dict[str, Any]:
    """The objects by kind and name, ignoring the order of variables, volumes and mounts."""
    return {f"{item['kind']} {item['metadata']['name']}": ordered(item) for item in objects}


def ordered(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: ordered(value) for key, value in node.items()}
    if isinstance(node, list):
        items = [ordered(item) for item in node]
        named = items and all(isinstance(item, dict) and "name" in item for item in items)
        return sorted(items, key=lambda item: str(item["name"])) if named else items
    return node


def test_the_examples_are_all_there() -> None:
    assert set(NAMES) == EXPECTED


@needs_kubectl
@pytest.mark.parametrize("name", NAMES)
def test_the_overlay_builds_the_same_objects_as_the_chart(name: str) -> None:
    overlay, chart = comparable(built(name)), comparable(rendered(name))
    assert overlay.keys() == chart.keys()
    for key, item in chart.items():
        assert overlay[key] == item, key


@pytest.mark.parametrize("name", NAMES)
def test_helm_accepts_the_values(name: str) -> None:
    values = yaml.safe_load((EXAMPLES / name / "values.yaml").read_text("utf-8"))
    assert render(values).predictors


@needs_kubectl
@pytest.mark.parametrize("name", NAMES)
def test_the_cluster_knows_every_field(name: str) -> None:
    for item in built(name):
        if item["kind"] == "InferenceService":
            assert sdk_problems(item) == []
        elif item["kind"] in SCHEMAS:
            assert operator_problems(SCHEMAS[item["kind"]], item) == []
        else:
            assert item["kind"] not in FOREIGN_KINDS
            kubernetes_validate.validate(item, "1.37", strict=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_has_its_five_paragraphs(name: str) -> None:
    text = (EXAMPLES / name / "README.md").read_text("utf-8")
    without_code = re.sub(r"^```.*?^```\n\n", "", text, flags=re.DOTALL | re.MULTILINE)
    heading, *paragraphs = without_code.split("\n\n")
    assert heading.startswith("# ")
    labels = [paragraph.partition(":")[0] for paragraph in paragraphs]
    assert labels == ["**What**", "**Needs**", "**Apply**", "**You see**", "**Remove**"]
    assert f"`kubectl apply -k examples/{name}`" in paragraphs[2]
    assert f"`kubectl delete -k examples/{name}`" in paragraphs[4]


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_an_example_is_used(name: str) -> None:
    kustomization = (EXAMPLES / name / "kustomization.yaml").read_text("utf-8")
    others = {path.name for path in (EXAMPLES / name).iterdir()}
    others -= {"README.md", "kustomization.yaml", "values.yaml"}
    assert all(f"- {file}" in kustomization or f"path: {file}" in kustomization for file in others)


@needs_kubectl
def test_the_demo_needs_no_gpu_no_token_and_no_hub() -> None:
    objects = {item["kind"]: item for item in built("cpu-demo")}
    job = objects["Job"]["spec"]["template"]["spec"]["containers"][0]
    predictor = objects["InferenceService"]["spec"]["predictor"]["containers"][0]
    assert plain_env(job)["DOWNLOADER_SOURCE"].startswith("file:///")
    assert "gpu" not in str(predictor["resources"])
    assert predictor["image"].endswith("-cpu")


def test_the_base_of_the_examples_is_the_folder_of_manifests() -> None:
    for name in NAMES:
        kustomization = yaml.safe_load((EXAMPLES / name / "kustomization.yaml").read_text("utf-8"))
        base = Path(EXAMPLES / name / kustomization["resources"][0]).resolve()
        assert base == ROOT / "manifests"
