"""gRPC in the chart: off by default, and only where its port can be reached."""

from __future__ import annotations

import pytest

from .rendering import Object, render

STANDARD: Object = {"deploymentMode": "Standard", "scaling": {"minReplicas": 1}}
ON: Object = {"grpc": {"enabled": True}}


def ingress_ports(values: Object) -> list[int]:
    policy = render(values).named("NetworkPolicy", "stable-diffusion-predictor")
    return [one["port"] for one in policy["spec"]["ingress"][0]["ports"]]


def test_grpc_is_off_by_default() -> None:
    container = render({"predictor": STANDARD}).predictor_container

    assert not [one for one in container["args"] if "grpc" in one]
    assert [one["name"] for one in container["ports"]] == ["http1"]
    assert ingress_ports({"predictor": STANDARD}) == [8080]


def test_grpc_has_a_port_next_to_http() -> None:
    values = {"predictor": STANDARD | ON}
    container = render(values).predictor_container

    assert {"--enable_grpc=true", "--grpc_port=8081"} <= {*container["args"]}
    # KServe makes the first port the Service's port 80, and keeps the numbers of the others.
    assert [(one["name"], one["containerPort"]) for one in container["ports"]] == [
        ("http1", 8080),
        ("grpc", 8081),
    ]
    assert ingress_ports(values) == [8080, 8081]


def test_one_of_several_models_can_have_grpc() -> None:
    models = [
        {"name": "a", "source": "hf://o/a", "predictor": ON},
        {"name": "b", "source": "hf://o/b"},
    ]
    values = {"models": models, "predictor": STANDARD}

    ports = [len(one["containers"][0]["ports"]) for one in render(values).predictors.values()]
    assert ports == [2, 1]
    assert ingress_ports(values) == [8080, 8081]


def test_knative_cannot_reach_the_port_of_grpc() -> None:
    with pytest.raises(Exception, match=r"single port of a container.*deploymentMode Standard"):
        render({"predictor": ON})
