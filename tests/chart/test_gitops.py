"""examples/gitops: values render, a changed Job gets another name, and the steps are complete."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from .rendering import ROOT, Object, Rendered, UniqueKeyLoader, render
from .test_examples import built, comparable, needs_kubectl

FOLDER = ROOT / "examples" / "gitops"
WAVE = "argocd.argoproj.io/sync-wave"


@cache
def objects(path: str) -> list[Object]:
    return list(yaml.load_all((FOLDER / path).read_text("utf-8"), UniqueKeyLoader))


def application() -> Object:
    (found,) = objects("argocd/application.yaml")
    return found


def release() -> Object:
    (found,) = objects("flux/helm-release.yaml")
    return found


def values() -> Object:
    found: Object = application()["spec"]["source"]["helm"]["valuesObject"]
    return found


def rendered() -> Rendered:
    return render(values(), application()["spec"]["source"]["helm"]["releaseName"])


def test_the_sources_are_folders_of_this_repository() -> None:
    paths = [application()["spec"]["source"]["path"], release()["spec"]["chart"]["spec"]["chart"]]

    assert [(ROOT / path).resolve() for path in paths] == [ROOT / "helm"] * 2


def test_only_the_inference_service_is_in_a_later_wave() -> None:
    waves = {
        item["kind"]: annotations[WAVE]
        for item in rendered().objects
        if WAVE in (annotations := item["metadata"].get("annotations", {}))
    }

    assert waves == {"InferenceService": "1"}
    assert {"Job", "PersistentVolumeClaim"} <= set(rendered().kinds())


def test_deleting_the_application_keeps_the_weights() -> None:
    claim = rendered().one("PersistentVolumeClaim")

    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


@pytest.mark.parametrize(
    ("changed", "is_another_job"),
    [
        ({"model": {"name": "sdxl", "source": "hf://a/b@main"}}, True),
        ({"downloader": {"image": {"tag": "9.9.9"}}}, True),
        ({"predictor": {"settings": {"max_side": 640}}}, False),
    ],
)
def test_a_changed_job_gets_another_name(changed: Object, is_another_job: bool) -> None:
    names = [render(given).one("Job")["metadata"]["name"] for given in ({}, changed)]

    assert (names[0] != names[1]) is is_another_job


def test_flux_uses_the_same_values_without_waves() -> None:
    expected = values() | {"predictor": {"image": values()["predictor"]["image"]}}
    del expected["managedBy"]

    assert release()["spec"]["values"] == expected
    assert render(release()["spec"]["values"]).predictors


def test_flux_waits_for_the_longest_download() -> None:
    download, predictor = objects("flux/kustomizations.yaml")
    deadline = render().one("Job")["spec"]["activeDeadlineSeconds"]

    assert hours(download["spec"]["timeout"]) * 3600 >= deadline
    assert download["spec"]["wait"] is True
    assert predictor["spec"]["dependsOn"] == [{"name": download["metadata"]["name"]}]


def hours(duration: str) -> int:
    assert duration.endswith("h")
    return int(duration.removesuffix("h"))


def test_the_kustomizations_have_their_overlays() -> None:
    paths = [ROOT / item["spec"]["path"] for item in objects("flux/kustomizations.yaml")]

    assert [path.resolve() for path in paths] == [FOLDER / "download", FOLDER / "predictor"]
    assert all((path / "kustomization.yaml").is_file() for path in paths)


def without_images(node: Any) -> Any:
    """An object without its annotations and its registry, which the overlays change."""
    if isinstance(node, dict):
        kept = {key: value for key, value in node.items() if key != "annotations"}
        return {key: without_images(value) for key, value in kept.items()}
    if isinstance(node, list):
        return [without_images(item) for item in node]
    return (
        node.rpartition("/")[2] if isinstance(node, str) and "stable-diffusion-" in node else node
    )


def base() -> Iterator[Object]:
    for path in sorted(Path(ROOT / "manifests").glob("*.yaml")):
        yield from yaml.load_all(path.read_text("utf-8"), UniqueKeyLoader)


@needs_kubectl
def test_the_two_overlays_are_the_manifests_in_two_steps() -> None:
    download, predictor = built("gitops/download"), built("gitops/predictor")

    assert [item["kind"] for item in predictor] == ["InferenceService"]
    assert "InferenceService" not in {item["kind"] for item in download}
    assert comparable(list(map(without_images, [*download, *predictor]))) == comparable(
        list(map(without_images, base()))
    )


@needs_kubectl
def test_a_controller_may_replace_the_job_and_keeps_the_claim() -> None:
    annotations = {
        item["kind"]: item["metadata"].get("annotations", {}) for item in built("gitops/download")
    }

    assert annotations["Job"] == {
        "kustomize.toolkit.fluxcd.io/force": "enabled",
        "argocd.argoproj.io/sync-options": "Force=true,Replace=true",
    }
    assert annotations["PersistentVolumeClaim"] == {
        "kustomize.toolkit.fluxcd.io/prune": "disabled",
        "argocd.argoproj.io/sync-options": "Delete=false,Prune=false",
    }
