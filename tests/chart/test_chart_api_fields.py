"""The API server knows every rendered field; it would silently drop a misspelt one."""

from __future__ import annotations

import copy
from typing import Any

import kubernetes_validate
import pytest

from .rendering import CASES, ROOT, Object, case, render
from .strictness import (
    crd_problems,
    inference_service_schema,
    operator_problems,
    sdk_problems,
)

ALL_CASES = ["default", *sorted(CASES)]
CRD = ROOT.parent / "shared/crds/serving.kserve.io_inferenceservices.yaml"
# The oldest that Chart.yaml allows, and a recent one.
KUBERNETES_VERSIONS = ["1.29", "1.37"]
SCHEMAS = {"PodMonitor": "pod-monitor", "PrometheusRule": "prometheus-rule"}
FOREIGN_KINDS = {"InferenceService", "HTTPRoute", "ScaledObject", *SCHEMAS}


@pytest.fixture(scope="session")
def crd_schema() -> dict[str, Any]:
    if not CRD.exists():
        pytest.skip("KServe's CRD is not next to the clone; the SDK's models are still checked")
    return inference_service_schema(CRD)


def misspelt(item: Object, where: str) -> Object:
    """A copy with one misspelt field."""
    changed = copy.deepcopy(item)
    predictor = changed["spec"]["predictor"]
    if where == "predictor":
        predictor["minReplica"] = predictor.pop("minReplicas")
    elif where == "container":
        container = predictor["containers"][0]
        container["imagePullPolice"] = container.pop("imagePullPolicy")
    else:
        get = predictor["containers"][0]["readinessProbe"]["httpGet"]
        get["paths"] = get.pop("path")
    return changed


@pytest.mark.parametrize("name", ALL_CASES)
def test_the_crd_knows_every_field_of_the_inference_service(
    name: str, crd_schema: dict[str, Any]
) -> None:
    services = case(name).all_of("InferenceService")
    assert services
    assert [crd_problems(crd_schema, service) for service in services] == [[]] * len(services)


@pytest.mark.parametrize("name", ALL_CASES)
def test_the_sdk_knows_every_field_of_the_inference_service(name: str) -> None:
    for service in case(name).all_of("InferenceService"):
        assert sdk_problems(service) == []


@pytest.mark.parametrize("where", ["predictor", "container", "probe"])
def test_the_crd_finds_a_misspelt_field(where: str, crd_schema: dict[str, Any]) -> None:
    assert crd_problems(crd_schema, misspelt(case("default").one("InferenceService"), where))


@pytest.mark.parametrize("where", ["predictor", "container", "probe"])
def test_the_sdk_finds_a_misspelt_field(where: str) -> None:
    (problem,) = sdk_problems(misspelt(case("default").one("InferenceService"), where))
    assert "unknown field" in problem


def test_both_find_a_wrong_type(crd_schema: dict[str, Any]) -> None:
    item = copy.deepcopy(case("default").one("InferenceService"))
    item["spec"]["predictor"]["timeout"] = "600"
    assert crd_problems(crd_schema, item)
    assert sdk_problems(item) == ["$.spec.predictor.timeout: '600' is not of type int"]


def test_the_crd_knows_the_fields_of_keda_scaling(crd_schema: dict[str, Any]) -> None:
    metric = {
        "type": "External",
        "external": {
            "metric": {
                "backend": "prometheus",
                "serverAddress": "http://prometheus.example.com",
                "query": "sum(queue_length)",
            },
            "target": {"type": "Value", "value": "4"},
        },
    }
    scaling = {"autoscalerClass": "keda", "metrics": [metric]}
    rendered = render({"predictor": {"deploymentMode": "Standard", "scaling": scaling}})
    assert crd_problems(crd_schema, rendered.one("InferenceService")) == []


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("name", ALL_CASES)
def test_kubernetes_knows_every_field_of_the_built_in_objects(name: str, version: str) -> None:
    rendered = case(name)
    own = [item for item in rendered.objects if item["kind"] not in FOREIGN_KINDS]
    assert own
    for item in own + rendered.hooks:
        assert kubernetes_validate.validate(item, version, strict=True) == version


def test_the_prometheus_operator_knows_every_field_of_its_objects() -> None:
    for kind, name in SCHEMAS.items():
        item = case("monitored").one(kind)
        assert operator_problems(name, item) == []
        item["spec"]["intervall"] = "1s"
        assert operator_problems(name, item)
        del item["spec"]["intervall"]


def test_kubernetes_finds_a_misspelt_field_of_the_job() -> None:
    job = copy.deepcopy(case("default").one("Job"))
    job["spec"]["backofLimit"] = job["spec"].pop("backoffLimit")
    with pytest.raises(kubernetes_validate.ValidationError, match="backofLimit"):
        kubernetes_validate.validate(job, KUBERNETES_VERSIONS[0], strict=True)
