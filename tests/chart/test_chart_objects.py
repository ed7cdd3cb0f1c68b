"""The objects that the chart renders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from downloader.settings import Fetch as DownloaderSettings
from predictor.settings import Settings as PredictorSettings

from .rendering import CASES, UniqueKeyLoader, case, case_values, plain_env, render

ALL_CASES = ["default", *sorted(CASES)]
STANDARD = {"predictor": {"deploymentMode": "Standard", "scaling": {"minReplicas": 1}}}


# Variables of libraries; all others in a container are settings of its program.
FOREIGN_VARIABLES = {
    "AWS_ACCESS_KEY_ID",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "CUDA_CACHE_PATH",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "HTTPS_PROXY",
    "OMP_NUM_THREADS",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "STORAGE_URI",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "XDG_CACHE_HOME",
}


def settings_of(container: dict[str, Any], prefix: str) -> set[str]:
    """The names of the settings that a container's variables set."""
    names = {item["name"] for item in container["env"]} - FOREIGN_VARIABLES
    assert all(name.startswith(prefix) for name in names), names
    return {name.removeprefix(prefix).lower() for name in names}


def containers_of(name: str) -> list[dict[str, Any]]:
    """The predictors' containers of a case."""
    return [predictor["containers"][0] for predictor in case(name).predictors.values()]


def model_names(name: str) -> list[str]:
    """The models that a case downloads, in order."""
    rendered = case(name)
    env = plain_env(rendered.downloader_container)
    if "DOWNLOADER_SPEC" not in env:
        return [env["DOWNLOADER_NAME"]]
    spec = yaml.safe_load(rendered.one("ConfigMap")["data"]["models.yaml"])
    return [model["name"] for model in spec["models"]]


@pytest.mark.parametrize("name", ALL_CASES)
def test_every_variable_is_a_setting_of_its_program(name: str) -> None:
    for container in containers_of(name):
        predictor = settings_of(container, "PREDICTOR_")
        assert predictor
        assert predictor <= PredictorSettings.model_fields.keys()
    downloader = settings_of(case(name).downloader_container, "DOWNLOADER_")
    assert {"target", "max_workers"} <= downloader
    assert downloader <= DownloaderSettings.model_fields.keys()


@pytest.mark.parametrize("name", sorted({*ALL_CASES} - {"many-models", "jobs"}))
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


def test_large_numbers_are_not_in_scientific_notation() -> None:
    settings = {"max_pixels": 1_572_864, "max_guidance_scale": 7.5, "embed_metadata": True}
    env = plain_env(render({"predictor": {"settings": settings}}).predictor_container)
    assert env["PREDICTOR_MAX_PIXELS"] == "1572864"
    assert env["PREDICTOR_MAX_GUIDANCE_SCALE"] == "7.5"
    assert env["PREDICTOR_EMBED_METADATA"] == "true"


@pytest.mark.parametrize(
    ("quantity", "text"),
    [
        *((17179869184, "17179869184"), (1e12, "1000000000000"), (100, "100"), (12.5, "12.5")),
        *(("16e9", "16e9"), ("17179869184", "17179869184"), ("20G", "20G")),
    ],
)
def test_quantities_are_text_and_not_in_scientific_notation(quantity: Any, text: str) -> None:
    pair = {"requests": {"ephemeral-storage": quantity}, "limits": {"ephemeral-storage": quantity}}
    values = {"predictor": {"resources": pair, "queueProxyResources": pair}}
    rendered = render(values | {"downloader": {"resources": pair}})
    annotations = rendered.one("InferenceService")["metadata"]["annotations"]
    for section in ("requests", "limits"):
        for container in (rendered.predictor_container, rendered.downloader_container):
            assert container["resources"][section]["ephemeral-storage"] == text
        name = f"ephemeral-storage-resource-{section.removesuffix('s')}"
        assert annotations[f"queue.sidecar.serving.knative.dev/{name}"] == text


def test_a_rendering_with_a_repeated_key_does_not_parse() -> None:
    with pytest.raises(yaml.constructor.ConstructorError, match="duplicate keys"):
        yaml.load("labels: {team: a, other: b, team: c}", UniqueKeyLoader)


def test_the_charts_drain_time_is_the_predictors_default() -> None:
    env = plain_env(case("default").predictor_container)
    defaults = PredictorSettings.model_fields
    assert float(env["PREDICTOR_DRAIN_SECONDS"]) == defaults["drain_seconds"].default
    # The chart knows the pod's grace period; the predictor does not.
    assert int(env["PREDICTOR_SHUTDOWN_SECONDS"]) > defaults["shutdown_seconds"].default


@pytest.mark.parametrize("name", ALL_CASES)
def test_both_programs_use_the_path_where_the_volume_is_mounted(name: str) -> None:
    container = case(name).downloader_container
    (mount,) = [item for item in container["volumeMounts"] if item["name"] == "models"]
    assert mount["mountPath"] == plain_env(container)["DOWNLOADER_TARGET"] == "/mnt/models"
    assert not mount.get("readOnly", False)
    assert DownloaderSettings.model_fields["target"].default == Path("/mnt/models")
    # KServe's webhook mounts STORAGE_URI at this path.
    assert PredictorSettings.model_fields["model_dir"].default == Path("/mnt/models")


@pytest.mark.parametrize("name", ALL_CASES)
def test_no_probe_delays_a_start_and_a_pod_that_hangs_gets_no_requests_after_15_seconds(
    name: str,
) -> None:
    for predictor in case(name).predictors.values():
        (container,) = predictor["containers"]
        readiness = container["readinessProbe"]
        for probe in (container["startupProbe"], readiness):
            assert (probe["periodSeconds"], probe.get("initialDelaySeconds", 0)) == (1, 0)
        assert readiness["failureThreshold"] * readiness["timeoutSeconds"] <= 15


def test_the_cache_is_a_writable_subfolder_of_its_claim() -> None:
    values = {"predictor": {"cache": {"claimName": "kernels", "subPath": "team"}}}
    rendered = render(values)
    container = rendered.predictor_container
    folder = plain_env(container)["PREDICTOR_CACHE_DIR"]

    (mount,) = [one for one in container["volumeMounts"] if one["mountPath"] == folder]
    (volume,) = [one for one in rendered.predictor["volumes"] if one["name"] == mount["name"]]

    assert (mount["subPath"], mount.get("readOnly", False)) == ("team", False)
    assert volume["persistentVolumeClaim"] == {"claimName": "kernels"}
    assert "PREDICTOR_CACHE_DIR" not in plain_env(render().predictor_container)


@pytest.mark.parametrize(("mode", "waits"), [("Knative", "true"), ("Standard", None)])
def test_requests_wait_for_the_only_model_with_knative(mode: str, waits: str | None) -> None:
    scaling = {"minReplicas": 1} if mode == "Standard" else {}
    values = {"predictor": {"deploymentMode": mode, "scaling": scaling}}
    chosen = {"predictor": {"settings": {"wait_for_load": False}}}

    assert plain_env(render(values).predictor_container).get("PREDICTOR_WAIT_FOR_LOAD") == waits
    assert plain_env(render(chosen).predictor_container)["PREDICTOR_WAIT_FOR_LOAD"] == "false"


@pytest.mark.parametrize("name", ALL_CASES)
def test_the_predictor_reads_the_folder_that_the_downloader_publishes(name: str) -> None:
    (volume,) = [item for item in case(name).downloader_pod["volumes"] if item["name"] == "models"]
    claim = volume["persistentVolumeClaim"]["claimName"]
    for model, predictor in zip(model_names(name), case(name).predictors.values(), strict=True):
        (container,) = predictor["containers"]
        assert claim_of(container, predictor["volumes"]) == claim
        assert plain_env(container)["PREDICTOR_MODEL_DIR"] == f"/mnt/models/{model}"
        assert f"--model_name={model}" in container["args"]
        assert container["readinessProbe"]["httpGet"]["path"] == f"/v2/models/{model}/ready"


def claim_of(container: dict[str, Any], volumes: list[dict[str, Any]]) -> str:
    """The claim whose root the predictor gets read-only, by KServe or by its own mount.

    The root: the kubelet would resolve a folder before the downloader has published it.
    """
    uris = [item["value"] for item in container["env"] if item["name"] == "STORAGE_URI"]
    mounts = [item for item in container["volumeMounts"] if item["mountPath"] == "/mnt/models"]
    if uris:
        assert (len(uris), mounts) == (1, [])
        claim, _, folder = uris[0].removeprefix("pvc://").partition("/")
        assert folder == ""
        return str(claim)
    (mount,) = mounts
    (volume,) = [item for item in volumes if item["name"] == mount["name"]]
    assert mount["readOnly"]
    assert "subPath" not in mount
    assert volume["persistentVolumeClaim"]["readOnly"]
    return str(volume["persistentVolumeClaim"]["claimName"])


@pytest.mark.parametrize("name", ALL_CASES)
def test_the_predictor_waits_for_as_long_as_the_job_may_take(name: str) -> None:
    deadline = case(name).one("Job")["spec"]["activeDeadlineSeconds"]
    for container in containers_of(name):
        assert plain_env(container)["PREDICTOR_MAX_DOWNLOAD_WAIT_SECONDS"] == str(deadline)


@pytest.mark.parametrize("name", ALL_CASES)
def test_the_hub_token_reaches_the_downloader_only(name: str) -> None:
    downloader = {item["name"]: item for item in case(name).downloader_container["env"]}
    assert downloader["HF_TOKEN"]["valueFrom"]["secretKeyRef"]["optional"] is True
    secret = downloader["HF_TOKEN"]["valueFrom"]["secretKeyRef"]["name"]
    for predictor in case(name).predictors.values():
        assert secret not in str(predictor)
        assert "TOKEN" not in str(predictor["containers"][0]["env"])


@pytest.mark.parametrize("name", ALL_CASES)
def test_kserve_accepts_the_names_of_the_variables(name: str) -> None:
    for container in containers_of(name):
        names = [item["name"] for item in container["env"]]
        assert "PYTHONPATH" not in names
        assert len(names) == len(set(names))


def test_the_placeholder_secret_is_empty() -> None:
    secret = case("default").one("Secret")
    assert secret.keys() == {"apiVersion", "kind", "metadata", "type"}


def test_existing_objects_are_used_instead_of_new_ones() -> None:
    rendered = case("existing")
    assert rendered.kinds() == ["InferenceService", "Job", "NetworkPolicy", "NetworkPolicy"]
    assert rendered.predictor["serviceAccountName"] == "team-predictor"
    assert rendered.downloader_pod["serviceAccountName"] == "team-downloader"
    (token,) = [item for item in rendered.downloader_container["env"] if "valueFrom" in item]
    reference = {"name": "team-token", "key": "HF_TOKEN", "optional": True}
    assert token["valueFrom"]["secretKeyRef"] == reference
    assert plain_env(rendered.downloader_container)["HF_ENDPOINT"] == "https://hub.example.com"


def test_the_job_can_be_left_out() -> None:
    rendered = render({"downloader": {"enabled": False}})
    assert "Job" not in rendered.kinds()
    assert "job/" not in rendered.notes
    assert "PREDICTOR_MAX_DOWNLOAD_WAIT_SECONDS" not in plain_env(rendered.predictor_container)


def test_both_containers_run_as_the_same_user() -> None:
    rendered = case("default")
    predictor = rendered.predictor_container["securityContext"]
    assert predictor == rendered.downloader_container["securityContext"]
    group = rendered.downloader_pod["securityContext"]["fsGroup"]
    assert predictor["runAsUser"] == predictor["runAsGroup"] == group


def test_the_platform_can_assign_the_users() -> None:
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
def test_a_changed_spec_creates_another_job(change: dict[str, Any]) -> None:
    before, after = case("default").one("Job"), render(change).one("Job")
    assert before["metadata"]["name"] != after["metadata"]["name"]


def test_an_unchanged_spec_renders_the_same_job() -> None:
    elsewhere = render({"predictor": {"timeoutSeconds": 300}, "storage": {"size": "50Gi"}})
    assert elsewhere.one("Job") == case("default").one("Job")


def test_the_job_does_not_retry_permanent_failures() -> None:
    job = case("default").one("Job")["spec"]
    fatal, stopped, drained = job["podFailurePolicy"]["rules"]
    assert (fatal["action"], fatal["onExitCodes"]["values"]) == ("FailJob", [2, 3, 4, 5, 8, 10])
    assert (stopped["action"], stopped["onExitCodes"]["values"]) == ("Ignore", [9])
    assert (drained["action"], "onPodConditions" in drained) == ("Ignore", True)
    for rule in (fatal, stopped):
        container = case("default").downloader_container["name"]
        assert (rule["onExitCodes"]["containerName"], rule["onExitCodes"]["operator"]) == (
            container,
            "In",
        )
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert "ttlSecondsAfterFinished" not in job


def test_the_claim_outlives_the_release_by_default() -> None:
    annotations = case("default").one("PersistentVolumeClaim")["metadata"]["annotations"]
    assert annotations == {"helm.sh/resource-policy": "keep"}
    gone = render({"storage": {"resourcePolicy": "delete"}}).one("PersistentVolumeClaim")
    assert "annotations" not in gone["metadata"]


def test_a_cpu_deployment_has_no_gpu_in_its_limits() -> None:
    rendered = case("cpu")
    assert "nvidia.com/gpu" not in rendered.predictor_container["resources"]["limits"]
    assert plain_env(rendered.predictor_container)["PREDICTOR_DEVICE"] == "cpu"
    assert plain_env(rendered.downloader_container)["DOWNLOADER_VARIANT"] == ""


def test_the_startup_probe_can_be_left_out_for_old_knative() -> None:
    probe = case("default").predictor_container["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] == 600
    without = render({"predictor": {"startupSeconds": 0}}).predictor_container
    assert "startupProbe" not in without


@pytest.mark.parametrize("name", ALL_CASES)
def test_the_notes_name_the_installed_objects(name: str) -> None:
    rendered = case(name)
    for model in model_names(name):
        assert f"/v1/models/{model}:predict" in rendered.notes
    assert f"job/{rendered.one('Job')['metadata']['name']}" in rendered.notes
    for service in rendered.predictors:
        assert f"get inferenceservice {service} --output" in rendered.notes
    assert "--namespace pictures" in rendered.notes


@pytest.mark.parametrize("release", ["a", "team.pictures", "x" * 53])
def test_names_leave_room_for_kserves_suffixes(release: str) -> None:
    rendered = render(release=release)
    service = rendered.one("InferenceService")["metadata"]["name"]
    assert len(f"{service}-predictor-00001") <= 63
    assert "." not in service
    assert all(len(item["metadata"]["name"]) <= 63 for item in rendered.objects)


@pytest.mark.parametrize("name", ALL_CASES)
def test_no_object_sets_a_namespace(name: str) -> None:
    assert [item for item in case(name).objects if "namespace" in item["metadata"]] == []


def test_the_notes_name_the_page_unless_it_is_off() -> None:
    off = render({"predictor": {"settings": {"ui": False}}})

    assert "open $SERVICE_URL/ui" in render().notes
    assert "/ui" not in off.notes
    assert plain_env(off.predictor_container)["PREDICTOR_UI"] == "false"
