"""A stock cluster admits every rendering, stores it unchanged, and creates valid pods from it."""

from __future__ import annotations

import re
import shutil
from typing import Any

import kubernetes_validate
import pytest

from deploy.checks.knative import flags_needed
from deploy.explain.refusal import EMPTY_DIR_FLAG, FLAG_OF_FIELD, FLAG_OF_VOLUME
from deploy.workload import deployment_mode
from tests.chart.rendering import plain_env
from tests.deploy.apply_semantics import leaves, merge

from . import knative_webhook, kserve_webhook, pod_validation, quota
from .configuration import features, kserve
from .knative_controller import QUEUE_PROXY, QUIET_SECONDS
from .renderings import (
    FLAGS,
    names,
    notes,
    objects,
    pods,
    services,
    template_of,
)

Object = dict[str, Any]
RENDERINGS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name.startswith("overlay ") and shutil.which("kubectl") is None,
            reason="kubectl is not installed",
        ),
    )
    for name in names()
]
# Limits CPU and memory in every way that a quota can.
QUOTA = {
    f"{section}.{name}": "1000Gi"
    for section in ("requests", "limits")
    for name in ("cpu", "memory")
}
UNLOADING_SECONDS = 15


@pytest.mark.parametrize("name", RENDERINGS)
def test_kserve_admits_the_service(name: str) -> None:
    for service in services(name):
        assert list(kserve_webhook.refusals(kserve_webhook.stored(service, kserve()))) == []


@pytest.mark.parametrize("name", RENDERINGS)
def test_kserve_stores_the_service_unchanged(name: str) -> None:
    """Otherwise `kubectl apply` never reports "unchanged"."""
    for service in services(name):
        kept = dict(leaves(kserve_webhook.stored(service, kserve())))
        changed = {path: kept.get(path) for path, value in leaves(service) if kept[path] != value}
        assert changed == {}


@pytest.mark.parametrize("name", RENDERINGS)
def test_another_field_manager_can_apply_the_same_object(name: str) -> None:
    for service in services(name):
        kept = kserve_webhook.stored(service, kserve())
        owners = {path: "kubectl" for path, _ in leaves(kept)}
        after, _ = merge(kept, owners, service, "deploy", force=False)
        assert after == kept


@pytest.mark.parametrize("name", RENDERINGS)
def test_knative_admits_the_revision(name: str) -> None:
    for made in pods(name):
        if made.mode == "Knative":
            template = template_of(name, made.maker)
            flags = features(*FLAGS.get(name, ()))
            assert list(knative_webhook.refusals(template, flags)) == []


@pytest.mark.parametrize("name", FLAGS)
def test_stock_knative_rejects_the_values_that_need_a_flag(name: str) -> None:
    template = template_of(name, services(name)[0])
    refusals = list(knative_webhook.refusals(template, features()))
    assert len(refusals) == len(FLAGS[name])
    assert all(flag in refusal for flag, refusal in zip(FLAGS[name], refusals, strict=True))


@pytest.mark.parametrize(
    "name", [name for name in names() if name.startswith(("chart ", "value "))]
)
def test_the_notes_name_the_flags_that_the_values_need(name: str) -> None:
    named = re.findall(r"kubernetes\.podspec-[a-z-]+", notes(name))
    assert named == sorted(FLAGS.get(name, ())) * len(services(name))


@pytest.mark.parametrize("name", RENDERINGS)
def test_the_doctor_names_the_same_flags(name: str) -> None:
    for service in services(name):
        if deployment_mode(service) == "Knative":
            needed = flags_needed(service).keys() - {EMPTY_DIR_FLAG}
            assert needed == set(FLAGS.get(name, ()))


def test_the_doctor_knows_each_flag_of_the_webhook() -> None:
    assert FLAG_OF_FIELD.items() >= knative_webhook.FLAG_OF_FIELD.items()
    assert FLAG_OF_VOLUME == knative_webhook.FLAG_OF_VOLUME


@pytest.mark.parametrize("name", RENDERINGS)
def test_knatives_secure_defaults_change_nothing(name: str) -> None:
    for made in pods(name):
        if made.mode == "Knative":
            before = template_of(name, made.maker)
            secure = features("secure-pod-defaults")
            assert knative_webhook.with_defaults(before, secure) == before


@pytest.mark.parametrize("name", RENDERINGS)
def test_the_api_server_admits_every_pod(name: str) -> None:
    made = pods(name)
    assert made
    for one in made:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": one.pod}
        assert list(pod_validation.refusals(one.pod)) == []
        kubernetes_validate.validate(pod, "1.37", strict=True)


@pytest.mark.parametrize("name", RENDERINGS)
def test_a_quota_on_requests_and_limits_admits_every_pod(name: str) -> None:
    for made in pods(name):
        assert list(quota.refusals(made.pod, QUOTA)) == []


@pytest.mark.parametrize("name", RENDERINGS)
def test_a_pod_stops_within_its_grace_period(name: str) -> None:
    for made in pods(name):
        if made.maker["kind"] == "InferenceService":
            env = plain_env(made.pod["containers"][0])
            stop = float(env["PREDICTOR_DRAIN_SECONDS"]) + int(env["PREDICTOR_SHUTDOWN_SECONDS"])
            stop += UNLOADING_SECONDS + (QUIET_SECONDS if made.mode == "Knative" else 0)
            assert stop <= made.pod["terminationGracePeriodSeconds"]


def test_the_pods_of_the_manifests_use_the_documented_resources() -> None:
    job, predictor = (made.pod for made in pods("manifests"))
    assert [item["name"] for item in predictor["containers"]] == ["kserve-container", QUEUE_PROXY]
    assert {key: str(value) for key, value in quota.usage(job).items()} == {
        "pods": "1",
        "requests.cpu": "0.500",
        "requests.memory": str(512 * 2**20),
        "limits.cpu": "2",
        "limits.memory": str(2 * 2**30),
    }
    used = quota.usage(predictor)
    assert float(used["requests.cpu"]) == 2.025
    assert used["limits.cpu"] == 9
    assert used["requests.memory"] == 8 * 2**30 + 400 * 2**20
    assert used["limits.memory"] == 16 * 2**30 + 800 * 2**20
    assert used["requests.nvidia.com/gpu"] == 1


def test_the_renderings_contain_every_kind_of_pod() -> None:
    kinds = {
        (made.maker["kind"], made.mode)
        for name in ("manifests", "chart standard")
        for made in pods(name)
    }
    assert kinds == {
        ("Job", ""),
        ("Pod", ""),
        ("InferenceService", "Knative"),
        ("InferenceService", "Standard"),
    }
    assert all(objects(name) for name in ("manifests", "chart standard", "values cpu-demo"))
