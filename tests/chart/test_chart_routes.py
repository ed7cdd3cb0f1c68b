"""Routes of the chart's own to the predictor: an HTTPRoute and an Ingress, in Standard mode."""

from __future__ import annotations

import copy
from typing import Any

import helm_python
import kubernetes_validate
import pytest

from .rendering import Object, render
from .strictness import operator_problems
from .test_chart_api_fields import KUBERNETES_VERSIONS

STANDARD: Object = {"deploymentMode": "Standard", "scaling": {"minReplicas": 1}}
GATEWAY: Object = {"name": "public", "namespace": "gateways", "sectionName": "https"}
MODELS: list[Object] = [{"name": name, "source": "hf://owner/name"} for name in ("a", "b")]


def routed(**route: Any) -> Object:
    """Values with an HTTPRoute."""
    return {"predictor": STANDARD | {"route": {"enabled": True, "parentRefs": [GATEWAY]} | route}}


def exposed(**ingress: Any) -> Object:
    """Values with an Ingress."""
    return {"predictor": STANDARD | {"ingress": {"enabled": True} | ingress}}


def test_there_is_no_route_by_default() -> None:
    kinds = render({"predictor": STANDARD}).kinds()
    assert not {"HTTPRoute", "Ingress"} & {*kinds}


def test_the_route_leads_to_kserves_service_with_the_predictors_time_limit() -> None:
    rendered = render(routed(hosts=["pictures.example.com"], annotations={"team": "a"}))
    route = rendered.one("HTTPRoute")

    assert operator_problems("http-route", route) == []
    assert route["metadata"]["annotations"] == {"team": "a"}
    assert route["spec"] == {
        "parentRefs": [GATEWAY],
        "hostnames": ["pictures.example.com"],
        "rules": [
            {
                "backendRefs": [{"name": "stable-diffusion-predictor", "port": 80}],
                "timeouts": {"request": f"{rendered.predictor['timeout']}s"},
            }
        ],
    }
    # KServe names its own routes and Ingresses after the InferenceService and the predictor.
    assert route["metadata"]["name"] == "stable-diffusion-route"


@pytest.mark.parametrize(("own", "expected"), [(30, {"request": "30s"}), (0, None)])
def test_the_route_can_have_another_time_limit_or_none(
    own: int, expected: dict[str, str] | None
) -> None:
    (rule,) = render(routed(timeoutSeconds=own)).one("HTTPRoute")["spec"]["rules"]
    assert rule.get("timeouts") == expected


def test_the_schema_of_routes_finds_a_misspelt_field() -> None:
    route = copy.deepcopy(render(routed()).one("HTTPRoute"))
    route["spec"]["hostname"] = ["pictures.example.com"]
    assert operator_problems("http-route", route)


def test_the_ingress_leads_to_kserves_service() -> None:
    annotations = {"nginx.ingress.kubernetes.io/proxy-read-timeout": "600"}
    ingress = render(
        exposed(
            className="nginx",
            hosts=["one.example.com", "two.example.com"],
            tlsSecretName="pictures-tls",
            annotations=annotations,
        )
    ).one("Ingress")

    for version in KUBERNETES_VERSIONS:
        assert kubernetes_validate.validate(ingress, version, strict=True) == version
    assert ingress["metadata"]["annotations"] == annotations
    assert ingress["spec"]["ingressClassName"] == "nginx"
    hosts = ["one.example.com", "two.example.com"]
    assert ingress["spec"]["tls"] == [{"secretName": "pictures-tls", "hosts": hosts}]
    assert [rule["host"] for rule in ingress["spec"]["rules"]] == hosts
    for rule in ingress["spec"]["rules"]:
        (path,) = rule["http"]["paths"]
        assert (path["path"], path["pathType"]) == ("/", "Prefix")
        service = {"name": "stable-diffusion-predictor", "port": {"number": 80}}
        assert path["backend"]["service"] == service


def test_an_ingress_without_hosts_accepts_all_of_them() -> None:
    ingress = render(exposed()).one("Ingress")
    (rule,) = ingress["spec"]["rules"]
    assert "host" not in rule
    assert not {"tls", "ingressClassName"} & ingress["spec"].keys()


def test_each_model_has_its_own_host() -> None:
    models = [
        {**model, "predictor": {"route": {"hosts": [f"{model['name']}.example.com"]}}}
        for model in MODELS
    ]
    routes = render({"models": models, **routed()}).all_of("HTTPRoute")
    found = {
        route["spec"]["hostnames"][0]: route["spec"]["rules"][0]["backendRefs"][0]["name"]
        for route in routes
    }
    assert found == {
        "a.example.com": "stable-diffusion-a-predictor",
        "b.example.com": "stable-diffusion-b-predictor",
    }


def test_a_shared_predictor_has_one_route() -> None:
    rendered = render({"models": MODELS, "sharedPredictor": True, **routed(hosts=["x.example"])})
    assert len(rendered.all_of("HTTPRoute")) == 1


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        *(
            (
                {"predictor": {kind: {"enabled": True}}},
                f"predictor.{kind}.enabled: with deploymentMode Knative.*deploymentMode Standard",
            )
            for kind in ("route", "ingress")
        ),
        (routed(parentRefs=[]), "predictor.route.parentRefs is empty: name the Gateway"),
        (
            {"models": MODELS, **routed(hosts=["x.example"])},
            "stable-diffusion-a and stable-diffusion-b would both have the host x.example: set",
        ),
        ({"models": MODELS, **exposed()}, r"predictor.ingress.hosts: .* the host \*: set"),
    ],
    ids=str,
)
def test_the_templates_reject(values: Object, advice: str) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=advice):
        render(values)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (routed(hosts=["https://x.example"]), "/predictor/route/hosts/0"),
        (routed(parentRefs=["public"]), "/predictor/route/parentRefs/0"),
        (routed(parentRefs=[{"namespace": "gateways"}]), "missing property 'name'"),
        (routed(timeoutSeconds=-1), "/predictor/route/timeoutSeconds"),
        (exposed(tls=True), "'tls' not allowed"),
        (exposed(annotations={"a": 1}), "/predictor/ingress/annotations/a"),
    ],
    ids=str,
)
def test_the_schema_rejects_and_names(values: Object, named: str) -> None:
    with pytest.raises(helm_python.HelmValuesError) as refusal:
        render(values)
    assert named in str(refusal.value)
