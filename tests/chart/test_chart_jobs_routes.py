"""Routes to the jobs program: an HTTPRoute and an Ingress, in both modes."""

from __future__ import annotations

import copy
import re
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from jobs.settings import Settings

from .rendering import ROOT, Object, Rendered, render
from .strictness import operator_problems
from .test_chart_api_fields import KUBERNETES_VERSIONS
from .test_chart_routes import GATEWAY, STANDARD, exposed, routed

NAME = "stable-diffusion-jobs"
KEYS: Object = {"secretName": "callers"}
MODES = pytest.mark.parametrize("predictor", [{}, STANDARD], ids=["Knative", "Standard"])


def with_jobs(**jobs: Any) -> Object:
    """Values with the jobs program and keys."""
    return {"jobs": {"enabled": True, "apiKeys": KEYS} | jobs}


def jobs_route(**route: Any) -> Object:
    """Values with an HTTPRoute to the jobs program."""
    return with_jobs(route={"enabled": True, "parentRefs": [GATEWAY]} | route)


def jobs_ingress(**ingress: Any) -> Object:
    """Values with an Ingress to the jobs program."""
    return with_jobs(ingress={"enabled": True} | ingress)


def port_of_service(rendered: Rendered) -> int:
    (port,) = rendered.named("Service", NAME)["spec"]["ports"]
    return int(port["port"])


@MODES
def test_the_route_leads_to_the_service_of_the_program(predictor: Object) -> None:
    values = jobs_route(hosts=["jobs.example.com"], annotations={"team": "a"})
    rendered = render({**values, "predictor": predictor})
    route = rendered.one("HTTPRoute")

    assert operator_problems("http-route", route) == []
    assert route["metadata"]["name"] == f"{NAME}-route"
    assert route["metadata"]["annotations"] == {"team": "a"}
    assert route["spec"] == {
        "parentRefs": [GATEWAY],
        "hostnames": ["jobs.example.com"],
        "rules": [
            {
                "backendRefs": [{"name": NAME, "port": port_of_service(rendered)}],
                # Envoy would cut a stream of events after 15 seconds.
                "timeouts": {"request": "3600s"},
            }
        ],
    }


@MODES
def test_the_ingress_leads_to_the_service_of_the_program(predictor: Object) -> None:
    annotations = {"nginx.ingress.kubernetes.io/proxy-read-timeout": "3600"}
    values = jobs_ingress(
        className="nginx",
        hosts=["jobs.example.com"],
        tlsSecretName="jobs-tls",
        annotations=annotations,
    )
    rendered = render({**values, "predictor": predictor})
    ingress = rendered.one("Ingress")

    for version in KUBERNETES_VERSIONS:
        assert kubernetes_validate.validate(ingress, version, strict=True) == version
    assert ingress["metadata"]["name"] == f"{NAME}-ingress"
    assert ingress["metadata"]["annotations"] == annotations
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert ingress["spec"]["tls"] == [{"secretName": "jobs-tls", "hosts": ["jobs.example.com"]}]
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert (rule["host"], path["path"]) == ("jobs.example.com", "/")
    backend = {"name": NAME, "port": {"number": port_of_service(rendered)}}
    assert path["backend"]["service"] == backend


@pytest.mark.parametrize("route", [jobs_route(timeoutSeconds=0), jobs_route(timeoutSeconds=60)])
def test_the_route_can_have_another_time_limit_or_none(route: Object) -> None:
    (rule,) = render(route).one("HTTPRoute")["spec"]["rules"]
    seconds = route["jobs"]["route"]["timeoutSeconds"]
    assert rule.get("timeouts") == ({"request": f"{seconds}s"} if seconds else None)


def test_the_program_and_the_predictor_can_have_routes_with_hosts_of_their_own() -> None:
    predictor = routed(hosts=["pictures.example.com"])
    routes = render({**jobs_route(hosts=["jobs.example.com"]), **predictor}).all_of("HTTPRoute")

    assert [one["spec"]["hostnames"] for one in routes] == [
        ["pictures.example.com"],
        ["jobs.example.com"],
    ]


def test_there_is_no_route_without_the_program() -> None:
    values = {"jobs": {"route": {"enabled": True}, "ingress": {"enabled": True}}}
    assert not {"HTTPRoute", "Ingress"} & {*render(values).kinds()}


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        (jobs_route(parentRefs=[]), "jobs.route.parentRefs is empty: name the Gateway"),
        (
            {**jobs_route(), **routed()},
            r"jobs.route.hosts: stable-diffusion and the jobs program .* the host \*",
        ),
        (
            {**jobs_ingress(hosts=["x.example"]), **exposed(hosts=["x.example"])},
            "jobs.ingress.hosts: .* would both have the host x.example",
        ),
        (jobs_route(timeoutSeconds=30), "timeoutSeconds is 30: .* take 60 seconds"),
        (
            with_jobs(
                route={"enabled": True, "parentRefs": [GATEWAY]}, settings={"max_wait_seconds": 4e3}
            ),
            "timeoutSeconds is 3600: .* take 4000 seconds",
        ),
    ],
    ids=str,
)
def test_the_templates_reject(values: Object, advice: str) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=advice):
        render(values)


@pytest.mark.parametrize("values", [jobs_route(), jobs_ingress()], ids=["route", "ingress"])
def test_a_route_without_keys_is_a_warning(values: Object) -> None:
    unprotected = {"jobs": {**values["jobs"], "apiKeys": {"secretName": ""}}}

    assert "Warnings" not in render(values).notes
    assert "sees all jobs and their pictures" in render(unprotected).notes.partition("Warnings:")[2]


def test_the_values_of_the_document_render_and_fit_the_program() -> None:
    text = (ROOT / "docs/jobs.md").read_text("utf-8")
    (block,) = re.findall(r"```yaml\n(# jobs-route-values.yaml\n.*?)```", text, re.DOTALL)
    values = yaml.safe_load(block)
    both = copy.deepcopy(values)
    both["jobs"]["ingress"]["enabled"] = True
    settings = Settings()

    assert "Ingress" not in render(values).kinds()
    assert "Warnings" not in render(values).notes
    (rule,) = render(values).one("HTTPRoute")["spec"]["rules"]
    annotations = render(both).one("Ingress")["metadata"]["annotations"]
    limits = {name.rpartition("/")[2]: value for name, value in annotations.items()}
    assert int(rule["timeouts"]["request"].removesuffix("s")) > settings.max_wait_seconds
    assert int(limits["proxy-read-timeout"]) > settings.max_wait_seconds
    assert int(limits["proxy-body-size"].removesuffix("m")) * 2**20 >= settings.max_body_bytes
    assert limits["proxy-buffering"] == "off"


def test_the_values_of_the_document_connect_to_a_redis() -> None:
    text = (ROOT / "docs/jobs.md").read_text("utf-8")
    (block,) = re.findall(r"```yaml\n(# jobs-redis-values.yaml\n.*?)```", text, re.DOTALL)
    values = yaml.safe_load(block)
    rendered = render(values)
    policy = rendered.named("NetworkPolicy", NAME)["spec"]
    deployment = rendered.named("Deployment", NAME)["spec"]
    (container,) = deployment["template"]["spec"]["containers"]
    (url,) = [one for one in container["env"] if one["name"] == "JOBS_REDIS_URL"]

    assert deployment["replicas"] == 2
    assert values["networkPolicy"]["jobsEgress"][0] in policy["egress"]
    name = url["valueFrom"]["secretKeyRef"]["name"]
    assert f"kubectl create secret generic {name} --from-literal=url=" in text
