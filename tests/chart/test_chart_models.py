"""Several models: one Job downloads them, and each has its own InferenceService."""

from __future__ import annotations

from typing import Any

import helm_python
import pytest
import yaml

from .rendering import Rendered, case, case_values, plain_env, render

TWO = [
    {"name": "first", "source": "hf://owner/first@main"},
    {"name": "second", "source": "hf://owner/second@main"},
]


def spec_of(rendered: Rendered) -> list[dict[str, Any]]:
    """The models in the downloader's spec file."""
    models: list[dict[str, Any]] = yaml.safe_load(rendered.one("ConfigMap")["data"]["models.yaml"])[
        "models"
    ]
    return models


def test_the_spec_file_holds_the_models_of_the_values() -> None:
    given = case_values("many-models")["models"]
    expected = [
        {field: value for field, value in model.items() if field != "predictor"} for model in given
    ]
    assert spec_of(case("many-models")) == expected


def test_the_job_reads_only_the_spec_file() -> None:
    rendered = case("many-models")
    env = plain_env(rendered.downloader_container)
    assert env["DOWNLOADER_SPEC"] == "/etc/downloader/models.yaml"
    assert not env.keys() & {"DOWNLOADER_SOURCE", "DOWNLOADER_NAME", "DOWNLOADER_VARIANT"}
    mounts = {item["name"]: item for item in rendered.downloader_container["volumeMounts"]}
    assert mounts["model-spec"]["mountPath"] == "/etc/downloader"
    (volume,) = [item for item in rendered.downloader_pod["volumes"] if "configMap" in item]
    assert volume["configMap"]["name"] == rendered.one("ConfigMap")["metadata"]["name"]


def test_one_plain_model_needs_no_spec_file() -> None:
    for values in ({}, {"models": TWO[:1]}):
        assert "ConfigMap" not in render(values).kinds()
    assert plain_env(render({"models": TWO[:1]}).downloader_container)["DOWNLOADER_NAME"] == "first"


@pytest.mark.parametrize(
    "more",
    [
        {"refiner": "hf://owner/refiner"},
        {"allow_patterns": ["unet/*"]},
        {"controlnets": [{"name": "canny", "source": "hf://owner/canny", "variant": ""}]},
        {"safety_classifier": "hf://owner/classifier"},
    ],
    ids=str,
)
def test_a_model_of_several_parts_needs_the_spec_file(more: dict[str, Any]) -> None:
    rendered = render({"model": more})
    (model,) = spec_of(rendered)
    assert more.items() <= model.items()
    assert list(rendered.predictors) == ["stable-diffusion"]


def test_each_model_has_an_inference_service() -> None:
    assert list(case("many-models").predictors) == [
        "stable-diffusion-small-v1-5",
        "stable-diffusion-sdxl",
        "stable-diffusion-single-file",
    ]


def test_the_release_name_is_not_repeated_in_a_models_name() -> None:
    models = [{**TWO[0], "name": "stable-diffusion-xl"}, TWO[1]]
    services = list(render({"models": models}).predictors)
    assert services == ["stable-diffusion-xl", "stable-diffusion-second"]


def test_a_models_own_values_apply_only_to_it() -> None:
    small, sdxl, single = case("many-models").predictors.values()
    assert (sdxl["minReplicas"], sdxl["maxReplicas"], sdxl["containerConcurrency"]) == (1, 3, 4)
    assert sdxl["containers"][0]["resources"]["limits"] == {
        "cpu": "8",
        "memory": "16Gi",
        "amd.com/gpu": "1",
    }
    assert plain_env(sdxl["containers"][0])["PREDICTOR_EMBED_METADATA"] == "false"
    for other in (small, single):
        assert (other["minReplicas"], other["containerConcurrency"]) == (0, 32)
        assert other["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert "PREDICTOR_EMBED_METADATA" not in plain_env(other["containers"][0])


def test_a_changed_list_creates_another_job() -> None:
    before = render({"models": TWO}).one("Job")
    after = render({"models": [TWO[0], {**TWO[1], "variant": ""}]}).one("Job")
    assert before["metadata"]["name"] != after["metadata"]["name"]
    elsewhere = [TWO[0], {**TWO[1], "predictor": {"concurrency": 2}}]
    assert render({"models": elsewhere}).one("Job") == before


def test_a_job_with_a_fixed_name_has_no_checksum() -> None:
    job = render({"models": TWO, "downloader": {"jobName": "fetch"}}).one("Job")
    assert "annotations" not in job["spec"]["template"]["metadata"]


def test_only_the_job_gets_the_keys_of_a_bucket() -> None:
    rendered = case("many-models")
    env = {item["name"]: item for item in rendered.downloader_container["env"]}
    assert plain_env(rendered.downloader_container)["AWS_REGION"] == "eu-central-1"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        reference = {"name": "team-bucket", "key": name, "optional": False}
        assert env[name]["valueFrom"]["secretKeyRef"] == reference
    assert env["AWS_SESSION_TOKEN"]["valueFrom"]["secretKeyRef"]["optional"] is True
    for predictor in rendered.predictors.values():
        assert "AWS" not in str(predictor)


@pytest.mark.parametrize("mount", ["storage-uri", "volume"])
def test_a_shared_predictor_mounts_the_whole_volume(mount: str) -> None:
    rendered = render({"models": TWO, "sharedPredictor": True, "storage": {"mount": mount}})
    (predictor,) = rendered.predictors.values()
    (container,) = predictor["containers"]
    mounts = {item["name"]: item for item in container["volumeMounts"]}

    assert list(rendered.predictors) == ["stable-diffusion"]
    assert container["args"] == ["--http_port=8080"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    if mount == "volume":
        assert "subPath" not in mounts["models"]
        assert mounts["models"]["readOnly"] is True
    else:
        assert plain_env(container)["STORAGE_URI"] == "pvc://stable-diffusion-models/"


def test_a_shared_predictor_has_one_monitor_and_one_budget() -> None:
    rendered = render(
        {
            "models": TWO,
            "sharedPredictor": True,
            "monitoring": {"podMonitor": {"enabled": True}, "rules": {"enabled": True}},
            "predictor": {"scaling": {"maxReplicas": 2}},
        }
    )
    (budget,) = [item for item in rendered.objects if item["kind"] == "PodDisruptionBudget"]
    (selector,) = rendered.one("PodMonitor")["spec"]["selector"]["matchExpressions"]
    groups = rendered.one("PrometheusRule")["spec"]["groups"]

    assert budget["metadata"]["name"] == "stable-diffusion"
    assert selector["values"] == ["stable-diffusion"]
    assert [group["name"] for group in groups] == ["stable-diffusion", "stable-diffusion-download"]


def test_helm_test_requests_each_model_of_a_shared_predictor() -> None:
    rendered = render({"models": TWO, "sharedPredictor": True})
    text = yaml.safe_dump(rendered.hooks)

    for name in ("first", "second"):
        assert f"http://stable-diffusion-predictor.pictures.svc/v1/models/{name}:predict" in text


def test_a_shared_predictor_rules_out_values_for_one_model() -> None:
    models = [TWO[0], {**TWO[1], "predictor": {"concurrency": 2}}]
    with pytest.raises(helm_python.HelmRenderError, match=r"second.*sharedPredictor"):
        render({"models": models, "sharedPredictor": True})
