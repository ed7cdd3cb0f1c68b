"""Reading the needs of our objects from the objects."""

from __future__ import annotations

from decimal import Decimal

import pytest

from deploy.dependencies import data_used
from deploy.objects import load_objects, of_kind
from deploy.workload import (
    claims_used,
    deployment_mode,
    extended_resources,
    model_name,
    quantity,
    requests_of,
)
from tests.deploy.conftest import ROOT

OBJECTS = load_objects(ROOT / "manifests")
(SERVICE,) = of_kind(OBJECTS, "InferenceService")
PREDICTOR = SERVICE["spec"]["predictor"]


def test_the_manifests_request_one_gpu() -> None:
    assert extended_resources(PREDICTOR) == {"nvidia.com/gpu": 1}


def test_the_claim_is_found_in_a_volume_and_in_a_storage_uri() -> None:
    (users,) = claims_used(OBJECTS).values()

    assert users == ["job/stable-diffusion-download", "inferenceservice/stable-diffusion"]


def test_the_token_is_optional() -> None:
    (use,) = data_used(OBJECTS)

    assert (use.name, use.key, use.optional) == ("stable-diffusion-huggingface", "token", True)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--model_name=sdxl"], "sdxl"),
        (["--http_port=8080", "--model_name", "sdxl"], "sdxl"),
        ([], "stable-diffusion"),
    ],
)
def test_the_model_name_in_the_path(arguments: list[str], name: str) -> None:
    container = {**PREDICTOR["containers"][0], "args": arguments}
    service = {**SERVICE, "spec": {"predictor": {"containers": [container]}}}

    assert model_name(service) == name


def test_a_predictor_of_many_models_uses_its_first_preloaded_one() -> None:
    env = [{"name": "PREDICTOR_PRELOAD", "value": "sdxl, flux"}]
    container = {**PREDICTOR["containers"][0], "args": ["--http_port=8080"], "env": env}
    service = {**SERVICE, "spec": {"predictor": {"containers": [container]}}}

    assert model_name(service) == "sdxl"


@pytest.mark.parametrize(
    ("annotation", "default", "mode"),
    [
        (None, "Serverless", "Knative"),
        (None, "RawDeployment", "Standard"),
        ("Standard", "Knative", "Standard"),
        ("Serverless", "Standard", "Knative"),
    ],
)
def test_the_mode_by_its_new_and_old_names(annotation: str, default: str, mode: str) -> None:
    annotations = {"serving.kserve.io/deploymentMode": annotation} if annotation else {}

    assert deployment_mode({"metadata": {"annotations": annotations}}, default) == mode


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500m", 0.5),
        ("2", 2),
        (1, 1),
        ("16Gi", 16 * 2**30),
        ("1k", 1000),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1E", 10**18),
        ("100u", Decimal("0.0001")),
        ("250n", Decimal("2.5e-7")),
        ("x", 0),
    ],
)
def test_quantities(text: object, number: float) -> None:
    assert quantity(text) == number


def test_a_limit_without_a_request_counts_as_a_request() -> None:
    counted = requests_of(PREDICTOR)

    assert counted["requests.nvidia.com/gpu"] == 1
    assert counted["requests.memory"] == counted["memory"] == 8 * 2**30
    assert counted["limits.memory"] == 16 * 2**30


def test_an_init_container_counts_only_if_it_needs_more_than_the_others_together() -> None:
    def container(cpu: str) -> dict[str, object]:
        return {"resources": {"requests": {"cpu": cpu}}}

    both = [container("500m"), container("1")]

    assert requests_of({"initContainers": [container("1")], "containers": both})["cpu"] == 1.5
    assert requests_of({"initContainers": [container("2")], "containers": both})["cpu"] == 2
