"""Scaling in both modes, and the one number that everything about concurrency derives from."""

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
def test_everything_about_concurrency_derives_from_one_number(number: int) -> None:
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
def test_a_full_batch_never_waits_for_requests_that_wait_outside(name: str) -> None:
    for predictor in case(name).predictors.values():
        lanes, queue = limits_of(predictor["containers"][0])
        pictures_in_a_batch = lanes // 2
        if "containerConcurrency" in predictor:
            assert predictor["containerConcurrency"] > pictures_in_a_batch
            # What Knative admits finds room, even at two pictures a request.
            assert queue >= 2 * predictor["containerConcurrency"]
            assert predictor["scaleTarget"] <= pictures_in_a_batch


def test_a_setting_of_the_engine_overrides_what_derives() -> None:
    settings = {"max_lanes": 6, "max_queue_length": 7}
    rendered = render({"predictor": {"settings": settings}})
    assert limits_of(rendered.predictor_container) == (6, 7)
    assert rendered.predictor["containerConcurrency"] == 32


def test_the_queue_takes_any_one_request() -> None:
    settings = {"max_images_per_request": 200}
    assert limits_of(render({"predictor": {"settings": settings}}).predictor_container)[1] == 200


def test_the_documents_arithmetic_is_that_of_the_chart() -> None:
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


def test_keda_scales_on_the_same_number() -> None:
    scaling = {
        "minReplicas": 1,
        "autoscalerClass": "keda",
        "prometheusAddress": "http://prometheus.example.com",
    }
    rendered = render({"predictor": {**STANDARD, "concurrency": 10, "scaling": scaling}})
    (metric,) = rendered.predictor["autoScaling"]["metrics"]
    assert metric["external"]["target"] == {"type": "Value", "value": "7.0"}


def test_requests_a_second_are_a_target_of_their_own() -> None:
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
    }
    assert rendered.predictor_container["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_knative_mode_uses_only_fields_that_stock_knative_allows() -> None:
    pod = case("default").predictor.keys()
    scaling = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"}
    knative = {"timeout", "containerConcurrency", "containers", "serviceAccountName", "volumes"}
    assert pod == scaling | knative
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
