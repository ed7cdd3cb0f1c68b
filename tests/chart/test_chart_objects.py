"""What the chart makes of its values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from downloader.settings import Settings as DownloaderSettings
from predictor.settings import Settings as PredictorSettings

from .rendering import CASES, case, case_values, plain_env, render

ALL_CASES = ["default", *sorted(CASES)]
STANDARD = {"predictor": {"deploymentMode": "Standard", "scaling": {"minReplicas": 1}}}


def settings_of(container: dict[str, Any], prefix: str) -> set[str]:
    """The names of the settings that a container's variables set."""
    names = [item["name"] for item in container["env"]]
    return {name.removeprefix(prefix).lower() for name in names if name.startswith(prefix)}


@pytest.mark.parametrize("name", ALL_CASES)
def test_every_variable_is_a_setting_of_its_program(name: str) -> None:
    rendered = case(name)
    predictor = settings_of(rendered.predictor_container, "PREDICTOR_")
    downloader = settings_of(rendered.downloader_container, "DOWNLOADER_")
    assert predictor
    assert predictor <= PredictorSettings.model_fields.keys()
    assert downloader == DownloaderSettings.model_fields.keys()


@pytest.mark.parametrize("name", ALL_CASES)
def test_the_programs_accept_the_variables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = case(name)
    for container in (rendered.predictor_container, rendered.downloader_container):
        for variable, value in plain_env(container).items():
            monkeypatch.setenv(variable, value)
    predictor = PredictorSettings()
    for setting, value in case_values(name).get("predictor", {}).get("settings", {}).items():
        assert getattr(predictor, setting) == value
    assert DownloaderSettings().name == case_values(name).get("model", {}).get(  # type: ignore[call-arg]
        "name", "stable-diffusion-v1-5"
    )


def test_large_numbers_reach_the_predictor_as_digits() -> None:
    settings = {"max_pixels": 1_572_864, "max_guidance_scale": 7.5, "embed_metadata": True}
    env = plain_env(render({"predictor": {"settings": settings}}).predictor_container)
    assert env["PREDICTOR_MAX_PIXELS"] == "1572864"
    assert env["PREDICTOR_MAX_GUIDANCE_SCALE"] == "7.5"
    assert env["PREDICTOR_EMBED_METADATA"] == "true"


def test_the_chart_drains_as_long_as_the_predictor_does_by_default() -> None:
    env = plain_env(case("default").predictor_container)
    defaults = PredictorSettings.model_fields
    assert float(env["PREDICTOR_DRAIN_SECONDS"]) == defaults["drain_seconds"].default
    assert int(env["PREDICTOR_SHUTDOWN_SECONDS"]) == defaults["shutdown_seconds"].default


@pytest.mark.parametrize("name", ALL_CASES)
def test_both_programs_look_for_the_volume_where_it_is_mounted(name: str) -> None:
    container = case(name).downloader_container
    (mount,) = [item for item in container["volumeMounts"] if item["name"] == "models"]
    assert mount["mountPath"] == plain_env(container)["DOWNLOADER_TARGET"] == "/mnt/models"
    assert not mount.get("readOnly", False)
    assert DownloaderSettings.model_fields["target"].default == Path("/mnt/models")
    # Here KServe's webhook mounts STORAGE_URI.
    assert PredictorSettings.model_fields["model_dir"].default == Path("/mnt/models")


@pytest.mark.parametrize("name", ALL_CASES)
def test_the_predictor_reads_the_folder_that_the_downloader_publishes(name: str) -> None:
    rendered = case(name)
    (volume,) = [item for item in rendered.downloader_pod["volumes"] if item["name"] == "models"]
    claim = volume["persistentVolumeClaim"]["claimName"]
    model = plain_env(rendered.downloader_container)["DOWNLOADER_NAME"]
    container = rendered.predictor_container
    uris = [item["value"] for item in container["env"] if item["name"] == "STORAGE_URI"]
    assert uris == [f"pvc://{claim}/{model}"]
    assert f"--model_name={model}" in container["args"]
    assert container["readinessProbe"]["httpGet"]["path"] == f"/v2/models/{model}/ready"


@pytest.mark.parametrize("name", ALL_CASES)
def test_the_hub_token_reaches_the_downloader_only(name: str) -> None:
    rendered = case(name)
    downloader = {item["name"]: item for item in rendered.downloader_container["env"]}
    assert downloader["HF_TOKEN"]["valueFrom"]["secretKeyRef"]["optional"] is True
    secret = downloader["HF_TOKEN"]["valueFrom"]["secretKeyRef"]["name"]
    assert secret not in str(rendered.predictor)
    assert "TOKEN" not in str(rendered.predictor_container["env"])


@pytest.mark.parametrize("name", ALL_CASES)
def test_kserve_would_accept_the_names_of_the_variables(name: str) -> None:
    names = [item["name"] for item in case(name).predictor_container["env"]]
    assert "PYTHONPATH" not in names
    assert len(names) == len(set(names))


def test_the_placeholder_secret_holds_nothing() -> None:
    secret = case("default").one("Secret")
    assert secret.keys() == {"apiVersion", "kind", "metadata", "type"}


def test_what_exists_already_is_used_and_not_made() -> None:
    rendered = case("existing")
    assert rendered.kinds() == ["InferenceService", "Job"]
    (token,) = [item for item in rendered.downloader_container["env"] if "valueFrom" in item]
    reference = {"name": "team-token", "key": "HF_TOKEN", "optional": True}
    assert token["valueFrom"]["secretKeyRef"] == reference
    assert plain_env(rendered.downloader_container)["HF_ENDPOINT"] == "https://hub.example.com"


def test_weights_that_are_there_need_no_job() -> None:
    rendered = render({"downloader": {"enabled": False}})
    assert "Job" not in rendered.kinds()
    assert "job/" not in rendered.notes


@pytest.mark.parametrize("name", ALL_CASES)
def test_containers_are_restricted_and_can_write_to_tmp(name: str) -> None:
    rendered = case(name)
    for container in (rendered.predictor_container, rendered.downloader_container):
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["runAsNonRoot"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]
        assert plain_env(container)["HF_HOME"].startswith("/tmp/")


def test_both_containers_run_as_the_same_user() -> None:
    rendered = case("default")
    predictor = rendered.predictor_container["securityContext"]
    assert predictor == rendered.downloader_container["securityContext"]
    group = rendered.downloader_pod["securityContext"]["fsGroup"]
    assert predictor["runAsUser"] == predictor["runAsGroup"] == group


def test_a_platform_that_assigns_users_is_left_to_it() -> None:
    rendered = case("existing")
    assert "runAsUser" not in rendered.predictor_container["securityContext"]
    assert "fsGroup" not in rendered.downloader_pod["securityContext"]


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"source": "hf://owner/other"}},
        {"model": {"name": "other"}},
        {"model": {"variant": ""}},
        {"downloader": {"image": {"tag": "other"}}},
        {"downloader": {"backoffLimit": 1}},
        {"huggingface": {"existingSecret": "other"}},
    ],
    ids=str,
)
def test_a_changed_spec_makes_another_job(change: dict[str, Any]) -> None:
    before, after = case("default").one("Job"), render(change).one("Job")
    assert before["metadata"]["name"] != after["metadata"]["name"]


def test_an_unchanged_spec_makes_the_same_job() -> None:
    elsewhere = render({"predictor": {"timeoutSeconds": 300}, "storage": {"size": "50Gi"}})
    assert elsewhere.one("Job") == case("default").one("Job")


def test_a_retry_is_spared_where_it_cannot_help() -> None:
    job = case("default").one("Job")["spec"]
    (fatal, _) = job["podFailurePolicy"]["rules"]
    assert fatal["action"] == "FailJob"
    assert fatal["onExitCodes"]["values"] == [2, 3, 4]
    assert fatal["onExitCodes"]["containerName"] == case("default").downloader_container["name"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert "ttlSecondsAfterFinished" not in job


def test_the_claim_outlives_the_release_unless_told_otherwise() -> None:
    annotations = case("default").one("PersistentVolumeClaim")["metadata"]["annotations"]
    assert annotations == {"helm.sh/resource-policy": "keep"}
    gone = render({"storage": {"resourcePolicy": "delete"}}).one("PersistentVolumeClaim")
    assert "annotations" not in gone["metadata"]


def test_knative_mode_scales_to_zero_and_waits_for_slow_starts() -> None:
    rendered = case("default")
    assert rendered.predictor["minReplicas"] == 0
    assert rendered.one("InferenceService")["metadata"]["annotations"] == {
        "serving.kserve.io/deploymentMode": "Knative",
        "autoscaling.knative.dev/scale-to-zero-pod-retention-period": "10m",
        "serving.knative.dev/progress-deadline": "30m",
    }
    assert rendered.predictor_container["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_knative_mode_uses_only_fields_that_stock_knative_allows() -> None:
    pod = case("default").predictor.keys()
    scaling = {"minReplicas", "maxReplicas", "timeout", "containerConcurrency"}
    assert pod == scaling | {"containers", "volumes"}
    (port,) = case("default").predictor_container["ports"]
    assert port == {"name": "http1", "containerPort": 8080, "protocol": "TCP"}
    (volume,) = case("default").predictor["volumes"]
    assert volume.keys() == {"name", "emptyDir"}


def test_standard_mode_has_no_knative_annotations_and_time_to_stop() -> None:
    rendered = case("standard")
    annotations = rendered.one("InferenceService")["metadata"]["annotations"]
    assert annotations["serving.kserve.io/deploymentMode"] == "Standard"
    assert annotations["serving.kserve.io/autoscalerClass"] == "none"
    assert not [name for name in annotations if "knative" in name.lower()]
    assert rendered.predictor["terminationGracePeriodSeconds"] == 5 + 300 + 15
    assert rendered.predictor["automountServiceAccountToken"] is False
    assert "containerConcurrency" not in rendered.predictor


def test_keda_scales_on_its_metrics_down_to_zero() -> None:
    metric = {"type": "External", "external": {"metric": {"backend": "prometheus"}}}
    scaling = {"minReplicas": 0, "autoscalerClass": "keda", "metrics": [metric]}
    rendered = render({"predictor": {"deploymentMode": "Standard", "scaling": scaling}})
    assert rendered.predictor["autoScaling"] == {"metrics": [metric]}
    assert rendered.predictor["minReplicas"] == 0


def test_a_cpu_needs_no_gpu_in_the_limits() -> None:
    rendered = case("cpu")
    assert "nvidia.com/gpu" not in rendered.predictor_container["resources"]["limits"]
    assert plain_env(rendered.predictor_container)["PREDICTOR_DEVICE"] == "cpu"
    assert plain_env(rendered.downloader_container)["DOWNLOADER_VARIANT"] == ""


def test_the_startup_probe_can_be_left_out_for_old_knative() -> None:
    assert case("default").predictor_container["startupProbe"]["failureThreshold"] * 5 == 600
    without = render({"predictor": {"startupSeconds": 0}}).predictor_container
    assert "startupProbe" not in without


@pytest.mark.parametrize("name", ALL_CASES)
def test_the_notes_ask_the_release_that_was_installed(name: str) -> None:
    rendered = case(name)
    model = plain_env(rendered.downloader_container)["DOWNLOADER_NAME"]
    assert f"/v1/models/{model}:predict" in rendered.notes
    assert f"job/{rendered.one('Job')['metadata']['name']}" in rendered.notes
    service = rendered.one("InferenceService")["metadata"]["name"]
    assert f"get inferenceservice {service} --output" in rendered.notes
    assert "--namespace pictures" in rendered.notes


@pytest.mark.parametrize("release", ["a", "team.pictures", "x" * 53])
def test_names_stay_short_enough_for_what_kserve_appends(release: str) -> None:
    rendered = render(release=release)
    service = rendered.one("InferenceService")["metadata"]["name"]
    assert len(f"{service}-predictor-00001") <= 63
    assert "." not in service
    assert all(len(item["metadata"]["name"]) <= 63 for item in rendered.objects)


@pytest.mark.parametrize("name", ALL_CASES)
def test_no_object_names_a_namespace(name: str) -> None:
    assert [item for item in case(name).objects if "namespace" in item["metadata"]] == []
