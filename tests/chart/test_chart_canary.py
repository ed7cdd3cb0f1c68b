"""A canary: a share of the requests for the previous revision, or for a second predictor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python
import pytest

from .rendering import Object, case, render
from .strictness import crd_problems, inference_service_schema, sdk_problems
from .test_chart_api_fields import CRD

NEW: Object = {"image": {"tag": "9.9.9"}, "settings": {"max_side": 640}}
# Fields of the autoscaler. A canary has a fixed number of pods, and KServe rejects them.
SCALING = {"maxReplicas", "scaleMetric", "scaleTarget", "autoScaling"}


def standard(percent: int | None, canary: Object, **more: Any) -> Object:
    """Values with a canary in Standard mode."""
    predictor: Object = {"deploymentMode": "Standard", "scaling": {"minReplicas": 2}}
    predictor["scaling"] |= {"maxReplicas": 3}
    return {"predictor": predictor | {"canaryTrafficPercent": percent, "canary": canary} | more}


def test_there_is_no_canary_by_default() -> None:
    service = case("default").one("InferenceService")
    assert "canaryTrafficPercent" not in service["spec"]["predictor"]
    assert "canary" not in service["spec"]


@pytest.mark.parametrize("percent", [0, 10, 100])
def test_knative_splits_requests_between_revisions(percent: int) -> None:
    service = render({"predictor": {"canaryTrafficPercent": percent}}).one("InferenceService")
    assert service["spec"]["predictor"]["canaryTrafficPercent"] == percent
    assert service["spec"].keys() == {"predictor"}
    assert sdk_problems(service) == []


def test_the_canary_of_standard_mode_is_the_predictor_with_its_overrides() -> None:
    values = standard(10, NEW)
    service = render(values).one("InferenceService")
    (canary,) = service["spec"]["canary"]
    stable, new = service["spec"]["predictor"], canary["predictor"]

    assert canary["trafficPercent"] == 10
    assert new["name"] == "canary"
    assert "canaryTrafficPercent" not in stable
    assert not SCALING & new.keys()
    assert stable == render(standard(None, {})).predictor
    # With the same values, both are the same pod.
    same = render({"predictor": values["predictor"] | {"canary": {"startupSeconds": 600}}})
    (twin,) = same.one("InferenceService")["spec"]["canary"]
    shared = {key: value for key, value in stable.items() if key not in {*SCALING, "minReplicas"}}
    assert twin["predictor"] == shared | {"name": "canary"}
    assert new["containers"][0]["image"] == "stable-diffusion-predictor:9.9.9"
    env = {one["name"]: one.get("value") for one in new["containers"][0]["env"]}
    assert env["PREDICTOR_MAX_SIDE"] == "640"
    assert sdk_problems(service) == []


@pytest.mark.skipif(not Path(CRD).exists(), reason="KServe's CRD is not next to the clone")
def test_the_crd_knows_the_fields_of_a_canary() -> None:
    schema = inference_service_schema(CRD)
    for values in ({"predictor": {"canaryTrafficPercent": 5}}, standard(0, NEW)):
        assert crd_problems(schema, render(values).one("InferenceService")) == []


def test_the_route_of_the_chart_splits_the_requests() -> None:
    route = {"enabled": True, "parentRefs": [{"name": "public"}]}
    rendered = render(standard(10, NEW, route=route))
    (rule,) = rendered.one("HTTPRoute")["spec"]["rules"]
    assert rule["backendRefs"] == [
        {"name": "stable-diffusion-predictor", "port": 80, "weight": 90},
        {"name": "stable-diffusion-canary-predictor", "port": 80, "weight": 10},
    ]


@pytest.mark.parametrize("own", [{"claimName": "new"}, {"subPath": "new"}], ids=str)
def test_a_canary_can_have_another_cache(own: Object) -> None:
    values = standard(10, {"cache": own}, cache={"size": "9Gi"})
    service = render(values).one("InferenceService")
    (canary,) = service["spec"]["canary"]
    assert "new" in str(canary)
    assert "new" not in str(service["spec"]["predictor"])


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        ({"predictor": {"canary": NEW}}, "predictor.canary: with deploymentMode Knative.*Change"),
        (standard(None, NEW), "set predictor.canaryTrafficPercent, the share"),
        (standard(10, {}), "predictor.canaryTrafficPercent: .*second predictor.*predictor.canary"),
        # The rules for the values of a predictor hold for those of its canary.
        (
            standard(10, {"env": [{"name": "PREDICTOR_MAX_SIDE", "value": "640"}]}),
            "PREDICTOR_MAX_SIDE: use predictor.settings.max_side",
        ),
        (standard(10, {"args": ["--http_port=80"]}), "--http-port: remove it"),
        (
            standard(10, {"settings": {"key_requests_per_minute": 6}}),
            "key_requests_per_minute: a limit per key requires keys",
        ),
        (
            standard(10, {"volumes": [{"name": "scratch", "emptyDir": {}}]}),
            "predictor.canary.volumes: the pod has another volume with the name scratch",
        ),
        (
            standard(10, {"volumeMounts": [{"name": "scratch", "mountPath": "/mnt/models"}]}),
            "predictor.canary.volumeMounts: /mnt/models collides with /mnt/models",
        ),
        (
            standard(10, {"cache": {"size": "5Gi"}}),
            "predictor.canary.cache.size: the chart creates one claim for both versions",
        ),
        (
            standard(10, {"cache": {"size": "5Gi"}}, cache={"size": "9Gi"}),
            "predictor.canary.cache.size: the chart creates one claim for both versions",
        ),
    ],
    ids=str,
)
def test_the_templates_reject(values: Object, advice: str) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=advice):
        render(values)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"predictor": {"canaryTrafficPercent": 101}}, "/predictor/canaryTrafficPercent"),
        ({"predictor": {"canaryTrafficPercent": -1}}, "/predictor/canaryTrafficPercent"),
        ({"predictor": {"canaryTrafficPercent": "10%"}}, "/predictor/canaryTrafficPercent"),
        (standard(10, {"imag": {}}), "/predictor/canary"),
        (standard(10, {"settings": {"max_pixel": 1}}), "/predictor/canary/settings"),
        (standard(10, {"scaling": {"maxReplicas": 2}}), "/predictor/canary/scaling"),
    ],
    ids=str,
)
def test_the_schema_rejects_and_names(values: Object, named: str) -> None:
    with pytest.raises(helm_python.HelmValuesError) as refusal:
        render(values)
    assert named in str(refusal.value)
