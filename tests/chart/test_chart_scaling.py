"""Scaling in both modes; all concurrency settings derive from one value."""

from __future__ import annotations

import re
from typing import Any

import pytest

from predictor.settings import Settings as PredictorSettings

from .rendering import CASES, ROOT, case, plain_env, render

ALL_CASES = ["default", *sorted(CASES)]
OPERATIONS = (ROOT / "docs/operations.md").read_text("utf-8")
STANDARD = {"deploymentMode": "Standard"}
UTILIZATION = 70


def limits_of(container: dict[str, Any]) -> tuple[int, int]:
    """``max_lanes`` and ``max_queue_length`` of a predictor."""
    env = plain_env(container)
    return int(env["PREDICTOR_MAX_LANES"]), int(env["PREDICTOR_MAX_QUEUE_LENGTH"])


@pytest.mark.parametrize("number", [1, 4, 16, 100])
def test_all_concurrency_settings_derive_from_one_value(number: int) -> None:
    rendered = render({"predictor": {"concurrency": number}})
    annotations = rendered.one("InferenceService")["metadata"]["annotations"]
    predictor = rendered.predictor
    lanes, queue = limits_of(rendered.predictor_container)

    assert lanes == 2 * number
    assert queue == max(
        4 * number, PredictorSettings.model_fields["max_images_per_request"].default
    )
    assert predictor["containerConcurrency"] == 2 * number
    assert (predictor["scaleMetric"], predictor["scaleTarget"]) == ("concurrency", number)
    assert annotations["autoscaling.knative.dev/target-utilization-percentage"] == str(UTILIZATION)


@pytest.mark.parametrize("name", ALL_CASES)
def test_knative_admits_enough_requests_to_fill_a_batch(name: str) -> None:
    for predictor in case(name).predictors.values():
        lanes, queue = limits_of(predictor["containers"][0])
        pictures_in_a_batch = lanes // 2
        if "containerConcurrency" in predictor:
            assert predictor["containerConcurrency"] > pictures_in_a_batch
            # The queue has room for all requests that Knative admits, at two pictures each.
            assert queue >= 2 * predictor["containerConcurrency"]
            assert predictor["scaleTarget"] <= pictures_in_a_batch


def test_explicit_engine_settings_override_derived_ones() -> None:
    settings = {"max_lanes": 6, "max_queue_length": 7}
    rendered = render({"predictor": {"settings": settings}})
    assert limits_of(rendered.predictor_container) == (6, 7)
    assert rendered.predictor["containerConcurrency"] == 32


def test_the_queue_has_room_for_the_largest_request() -> None:
    settings = {"max_images_per_request": 200}
    assert limits_of(render({"predictor": {"settings": settings}}).predictor_container)[1] == 200


def test_the_table_of_the_document_matches_the_chart() -> None:
    section = OPERATIONS.partition("## Autoscaling")[2].partition("\n## ")[0]
    rows = re.findall(
        r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+) \| ([\d.]+) \|$", section, re.MULTILINE
    )
    assert len(rows) >= 3
    for number, lanes, admitted, queue, target in rows:
        rendered = render({"predictor": {"concurrency": int(number)}})
        assert (int(lanes), int(queue)) == limits_of(rendered.predictor_container)
        assert int(admitted) == rendered.predictor["containerConcurrency"]
        assert float(target) == pytest.approx(rendered.predictor["scaleTarget"] * UTILIZATION / 100)


def test_kedas_target_derives_from_the_same_value() -> None:
    scaling = {
        "minReplicas": 1,
        "autoscalerClass": "keda",
        "prometheusAddress": "http://prometheus.example.com",
    }
    rendered = render({"predictor": {**STANDARD, "concurrency": 10, "scaling": scaling}})
    (metric,) = rendered.predictor["autoScaling"]["metrics"]
    assert metric["external"]["target"] == {"type": "Value", "value": "7.0"}


def test_requests_per_second_have_an_independent_target() -> None:
    rendered = render({"predictor": {"scaling": {"scaleMetric": "rps", "scaleTarget": 3}}})
    assert (rendered.predictor["scaleMetric"], rendered.predictor["scaleTarget"]) == ("rps", 3)
    annotations = rendered.one("InferenceService")["metadata"]["annotations"]
    assert "autoscaling.knative.dev/target-utilization-percentage" not in annotations


def test_knative_mode_scales_to_zero_and_waits_for_slow_starts() -> None:
    rendered = case("default")
    assert rendered.predictor["minReplicas"] == 0
    assert rendered.one("InferenceService")["metadata"]["annotations"] == {
        "serving.kserve.io/deploymentMode": "Knative",
        "autoscaling.knative.dev/target-utilization-percentage": "70",
        "autoscaling.knative.dev/scale-to-zero-pod-retention-period": "10m",
        "serving.knative.dev/progress-deadline": "30m",
        "queue.sidecar.serving.knative.dev/cpu-resource-request": "25m",
        "queue.sidecar.serving.knative.dev/cpu-resource-limit": "1",
        "queue.sidecar.serving.knative.dev/memory-resource-request": "400Mi",
        "queue.sidecar.serving.knative.dev/memory-resource-limit": "800Mi",
    }
    assert rendered.predictor_container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_knative_mode_uses_only_fields_that_stock_knative_allows() -> None:
    pod = case("default").predictor.keys()
    scaling = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"}
    knative = {"timeout", "containerConcurrency", "containers", "serviceAccountName", "volumes"}
    # Allowed since Knative 1.0, but only as `false`.
    assert pod == scaling | knative | {"automountServiceAccountToken"}
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


@pytest.mark.parametrize(
    ("values", "shutdown", "grace"),
    [
        # 600 s minus 30 for queue-proxy, 5 for draining and 15 for unloading.
        ({}, "550", None),
        ({"settings": {"drain_seconds": None}}, "550", None),
        ({"settings": {"drain_seconds": 0}}, "555", None),
        ({"timeoutSeconds": 1800, "settings": {"drain_seconds": 10}}, "1745", None),
        ({"settings": {"shutdown_seconds": 60}}, "60", None),
        ({**STANDARD, "scaling": {"minReplicas": 1}}, "600", 620),
        (
            {**STANDARD, "scaling": {"minReplicas": 1}, "settings": {"drain_seconds": None}},
            "600",
            620,
        ),
        ({**STANDARD, "scaling": {"minReplicas": 1}, "timeoutSeconds": 90}, "90", 110),
    ],
    ids=str,
)
def test_a_terminating_pod_gives_requests_the_rest_of_its_grace_period(
    values: dict[str, Any], shutdown: str, grace: int | None
) -> None:
    rendered = render({"predictor": values})
    assert plain_env(rendered.predictor_container)["PREDICTOR_SHUTDOWN_SECONDS"] == shutdown
    assert rendered.predictor.get("terminationGracePeriodSeconds") == grace


@pytest.mark.parametrize(
    ("limit", "threads"),
    [("8", "8"), (3, "3"), ("2500m", "3"), (2.5, "3"), ("2", "2"), ("2e0", "2"), ("2000001u", "3")],
)
def test_torch_starts_one_thread_per_cpu_of_the_limit(limit: Any, threads: str) -> None:
    rendered = render({"predictor": {"resources": {"limits": {"cpu": limit}}}})
    assert plain_env(rendered.predictor_container)["OMP_NUM_THREADS"] == threads


def test_the_number_of_threads_can_be_set() -> None:
    env = [{"name": "OMP_NUM_THREADS", "value": "5"}]
    container = render({"predictor": {"env": env}}).predictor_container
    assert [item for item in container["env"] if item["name"] == "OMP_NUM_THREADS"] == env


def test_annotations_in_the_values_override_those_of_the_chart() -> None:
    name = "autoscaling.knative.dev/target-utilization-percentage"
    service = render({"predictor": {"annotations": {name: "90"}}}).one("InferenceService")
    assert service["metadata"]["annotations"][name] == "90"


def test_queue_proxys_resources_can_be_left_to_the_cluster() -> None:
    nothing = {"cpu": None, "memory": None}
    values = {"queueProxyResources": {"requests": nothing, "limits": nothing}}
    annotations = render({"predictor": values}).one("InferenceService")["metadata"]["annotations"]
    assert not [name for name in annotations if name.startswith("queue.sidecar")]
