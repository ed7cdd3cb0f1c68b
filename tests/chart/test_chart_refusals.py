"""The chart rejects invalid values, and the message names the value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import helm_python
import pytest

from .rendering import CASES, CHART, case_values, render
from .test_chart_values import with_value

LABELS = (
    "labels",
    "predictor.labels",
    "downloader.labels",
    "downloader.jobLabels",
    "monitoring.podMonitor.labels",
    "monitoring.rules.labels",
    "monitoring.dashboard.labels",
)
MONITORED: dict[str, Any] = {
    "monitoring": {name: {"enabled": True} for name in ("podMonitor", "rules", "dashboard")}
}


def standard(**scaling: Any) -> dict[str, Any]:
    """Values for Standard mode."""
    return {"predictor": {"deploymentMode": "Standard", "scaling": scaling}}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"modell": {}}, "modell"),
        ({"model": {"name": "../escape"}}, "/model/name"),
        ({"model": {"name": ""}}, "/model/name"),
        *(
            ({"model": {"source": source}}, "/model/source")
            for source in ("https://example.com/weights", "./weights", "weights", "hf://owner")
        ),
        ({"storage": {"size": "plenty"}}, "/storage/size"),
        ({"storage": {"accessModes": []}}, "/storage/accessModes"),
        ({"huggingface": {"token": "hf_x"}}, "'token' not allowed"),
        ({"security": {"runAsUser": 0}}, "/security/runAsUser"),
        ({"downloader": {"maxWorkers": 0}}, "/downloader/maxWorkers"),
        ({"predictor": {"image": {"repository": ""}}}, "/predictor/image/repository"),
        ({"predictor": {"deploymentMode": "Raw"}}, "/predictor/deploymentMode"),
        ({"predictor": {"settings": {"max_pixel": 1}}}, "'max_pixel' not allowed"),
        ({"predictor": {"settings": {"max_pixels": 1}}}, "/predictor/settings/max_pixels"),
        ({"predictor": {"settings": {"device": "tpu"}}}, "/predictor/settings/device"),
        ({"predictor": {"settings": {"model_dir": "/x"}}}, "'model_dir' not allowed"),
        ({"predictor": {"scaling": {"minReplicas": "0"}}}, "/predictor/scaling/minReplicas"),
        ({"predictor": {"scaling": {"podRetentionPeriod": "soon"}}}, "podRetentionPeriod"),
        ({"predictor": {"progressDeadline": 600}}, "/predictor/progressDeadline"),
        ({"predictor": {"concurrency": 0}}, "/predictor/concurrency"),
        ({"predictor": {"blockList": {"configMap": "a: b"}}}, "/predictor/blockList/configMap"),
        ({"predictor": {"apiKeys": {"secretName": "a: b"}}}, "/predictor/apiKeys/secretName"),
        ({"predictor": {"cache": {"claimName": "Kernels"}}}, "/predictor/cache/claimName"),
        ({"predictor": {"resources": {"limits": {"memory": "16GB"}}}}, "/resources/limits/memory"),
        *(
            ({"predictor": {"resources": {"limits": {"memory": text}}}}, "/resources/limits/memory")
            for text in ("1e", "1e3Gi", "16gi", "16K", "-1Gi", ".", "1.2.3", "1 Gi", -1)
        ),
        ({"predictor": {"containerConcurrency": 8}}, "'containerConcurrency' not allowed"),
        ({"predictor": {"env": [{"value": "nameless"}]}}, "/predictor/env/0"),
        ({"predictor": {"env": [{"name": "A=B", "value": "1"}]}}, "/predictor/env/0/name"),
        ({"downloader": {"env": [{"name": "A B", "value": "1"}]}}, "/downloader/env/0/name"),
        *(
            ({"predictor": {"resources": {"limits": {name: 1}}}}, "/predictor/resources/limits")
            for name in ("gpu", "foo bar", "nvidia.com/", "/gpu")
        ),
        *(
            (
                with_value({}, key, {f"app.kubernetes.io/{name}": "x"}),
                f"/{key.replace('.', '/')}",
            )
            for key in LABELS
            for name in ("name", "instance", "component", "managed-by")
        ),
        ({"labels": {"team": "a b"}}, "/labels/team"),
        ({"labels": {"a team": "b"}}, "/labels"),
        ({"predictor": {"labels": {"team": "x" * 64}}}, "/predictor/labels/team"),
        ({"predictor": {"annotations": {"a b": "c"}}}, "/predictor/annotations"),
        (
            {"downloader": {"annotations": {"checksum/model-spec": "x"}}},
            "/downloader/annotations",
        ),
        ({"nameOverride": "x" * 64}, "/nameOverride"),
        ({"downloader": {"jobName": "x" * 64}}, "/downloader/jobName"),
        ({"models": [{"name": "a"}]}, "missing property 'source'"),
        ({"models": [{"name": "a", "source": "hf://o/n", "varian": ""}]}, "'varian' not allowed"),
        (
            {"models": [{"name": "a", "source": "https://example.com/a.safetensors"}]},
            "missing property 'sha256'",
        ),
        (
            {"models": [{"name": "a", "source": "hf://o/n", "predictor": {"concurrency": 0}}]},
            "/models/0/predictor/concurrency",
        ),
        ({"model": {"refiner": "https://example.com/a.safetensors"}}, "/model/refiner"),
        (
            {"model": {"controlnets": [{"name": "a", "source": "https://h/a.safetensors"}]}},
            "/model/controlnets/0/source",
        ),
        ({"s3": {"accessKey": "x"}}, "'accessKey' not allowed"),
        ({"sharedPredictor": "yes"}, "/sharedPredictor"),
        ({"storage": {"mount": "nfs"}}, "/storage/mount"),
        ({"networkPolicy": {"ingressFrom": ["knative"]}}, "/networkPolicy/ingressFrom/0"),
        ({"monitoring": {"rules": {"errorRatio": 5}}}, "/monitoring/rules/errorRatio"),
        ({"monitoring": {"rules": {"latencySeconds": 600}}}, "/monitoring/rules/latencySeconds"),
        ({"monitoring": {"podMonitor": {"knativeRequestMetrics": True}}}, "knativeRequestMetrics"),
        ({"monitoring": {"rules": {"runbookUrl": "docs"}}}, "/monitoring/rules/runbookUrl"),
        ({"test": {"timeoutSeconds": 0}}, "/test/timeoutSeconds"),
    ],
    ids=str,
)
def test_the_schema_rejects_and_names(values: dict[str, Any], named: str) -> None:
    with pytest.raises(helm_python.HelmValuesError) as refusal:
        render(values)
    assert named in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        (standard(), "minReplicas is 0.*autoscalerClass none.*Use 1"),
        (standard(autoscalerClass="hpa"), "minReplicas is 0.*autoscalerClass hpa"),
        (standard(minReplicas=1, autoscalerClass="keda"), "keda scales on metrics"),
        (
            standard(autoscalerClass="keda", prometheusAddress="http://prometheus"),
            "minReplicas is 0.*cannot scale from zero.*metric of the gateway",
        ),
        ({"predictor": {"scaling": {"scaleTarget": 4}}}, "predictor.concurrency: set that instead"),
        ({"predictor": {"scaling": {"scaleMetric": "rps"}}}, "rps requires the target requests"),
        (
            {
                "models": [
                    {"name": "a.b", "source": "hf://o/n"},
                    {"name": "a_b", "source": "hf://o/n"},
                ]
            },
            '"a.b" and "a_b" would both be served as InferenceService stable-diffusion-a-b',
        ),
        (
            {
                "models": [
                    {
                        "name": "a",
                        "source": "hf://o/n",
                        "predictor": {"scaling": {"minReplicas": 2}},
                    }
                ]
            },
            "minReplicas exceeds",
        ),
        (
            standard(minReplicas=1, autoscalerClass="hpa", scaleMetric="rps"),
            "scaleMetric.*use cpu or memory",
        ),
        ({"predictor": {"scaling": {"scaleMetric": "cpu"}}}, "scaleMetric.*concurrency or rps"),
        ({"predictor": {"scaling": {"minReplicas": 2}}}, "minReplicas exceeds"),
        ({"predictor": {"timeoutSeconds": 50}}, "timeoutSeconds must be at least 51"),
        (
            {"predictor": {"timeoutSeconds": 169, "settings": {"shutdown_seconds": 120}}},
            "timeoutSeconds must be at least 170.*30 s for queue-proxy",
        ),
        (
            {"predictor": {"scaling": {"podRetentionPeriod": "1h1s"}}},
            "podRetentionPeriod is 1h1s.*Set minReplicas to 1",
        ),
        *(
            (
                {"predictor": {"progressDeadline": deadline}},
                f"progressDeadline is {deadline}: Knative requires whole seconds, at least 1s",
            )
            for deadline in ("1.5s", "0s", "0.01m", "0h0m")
        ),
        *(
            (
                with_value({"labels": {"team": "a"}} | MONITORED, key, {"team": "b"}),
                f"{key}: team is also in labels",
            )
            for key in LABELS[1:]
        ),
        (
            {"predictor": {"annotations": {"serving.kserve.io/deploymentMode": "Standard"}}},
            "deploymentMode is Standard and predictor.deploymentMode is Knative: remove",
        ),
        ({"predictor": {"env": [{"name": "PORT", "value": "1"}]}}, "Knative sets PORT itself"),
        *(
            (
                {"predictor": {"deploymentMode": former}},
                f"{former} is called {name} since KServe 0.16",
            )
            for former, name in (("Serverless", "Knative"), ("RawDeployment", "Standard"))
        ),
        *(
            (values, '"owner/repo@main" is not a source: write hf://owner/repo@main')
            for values in (
                {"model": {"source": "owner/repo@main"}},
                {"model": {"refiner": "owner/repo@main"}},
                {"model": {"safety_classifier": "owner/repo@main"}},
                {"models": [{"name": "a", "source": "owner/repo@main"}]},
                *(
                    {"model": {parts: [{"name": "a", "source": "owner/repo@main"}]}}
                    for parts in ("adapters", "controlnets", "embeddings")
                ),
            )
        ),
        (
            {"model": {"source": "oci://registry.example.com/models:1"}},
            "is not a source: write oci\\+native://registry.example.com/models:1 for",
        ),
        (
            {"models": [{"name": "a", "source": "pvc://claim/sdxl"}]},
            "is not a source: set the name of the claim in storage.existingClaim",
        ),
        *(
            (
                {component: {"resources": {section: {name: None}}}},
                f"{component}.resources.{section}.{name} is not set: set it",
            )
            for component in ("predictor", "downloader")
            for section in ("requests", "limits")
            for name in ("cpu", "memory")
        ),
        (
            {"predictor": {"resources": {"limits": {"cpu": "1500m"}}}},
            "requests.cpu is 2 and limits.cpu is 1500m: raise the limit or lower the request",
        ),
        (
            {"predictor": {"resources": {"requests": {"memory": "17000Mi"}}}},
            "requests.memory is 17000Mi and limits.memory is 16Gi",
        ),
        (
            {"predictor": {"queueProxyResources": {"requests": {"cpu": 2}}}},
            "queueProxyResources: requests.cpu is 2 and limits.cpu is 1",
        ),
        (
            {"predictor": {"resources": {"requests": {"memory": 34359738368}}}},
            "requests.memory is 34359738368 and limits.memory is 16Gi",
        ),
        (
            {"predictor": {"queueProxyResources": {"requests": {"memory": 1717986918}}}},
            "queueProxyResources: requests.memory is 1717986918 and limits.memory is 800Mi",
        ),
        *(
            (
                {component: {"resources": {section: {name: 0}}}},
                f"{component}.resources.{section}.{name} is 0: set more than 0",
            )
            for component in ("predictor", "downloader")
            for section in ("requests", "limits")
            for name in ("cpu", "memory")
        ),
        (
            {"predictor": {"resources": {"limits": {"nvidia.com/gpu": 0.5}}}},
            "limits.nvidia.com/gpu is 0.5: set a whole number of devices",
        ),
        (
            {"predictor": {"resources": {"limits": {"nvidia.com/gpu": "500m"}}}},
            "limits.nvidia.com/gpu is 500m: set a whole number of devices",
        ),
        (
            {"predictor": {"resources": {"requests": {"nvidia.com/gpu": 2}}}},
            "requests.nvidia.com/gpu must equal limits.nvidia.com/gpu",
        ),
    ],
    ids=str,
)
def test_the_templates_reject_what_the_cluster_would_change_or_reject(
    values: dict[str, Any], advice: str
) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=advice):
        render(values)


@pytest.mark.parametrize(
    "values",
    [
        {"predictor": {"timeoutSeconds": 51}},
        {"predictor": {"timeoutSeconds": 170, "settings": {"shutdown_seconds": 120}}},
        {"predictor": {"scaling": {"podRetentionPeriod": "60m"}}},
        {"predictor": {"progressDeadline": "1.5m"}},
        {"predictor": {"env": [{"name": "my.VARIABLE-1", "value": "a=b c"}]}},
        {"predictor": {"resources": {"limits": {"hugepages-2Mi": "4Mi", "amd.com/gpu": 1}}}},
        {"predictor": {"annotations": {"serving.kserve.io/deploymentMode": "Knative"}}},
        {"predictor": {"annotations": {"serving.kserve.io/deploymentMode": "Serverless"}}},
        {"labels": {"example.com/team": ""}, "nameOverride": "x" * 63},
        {"downloader": {"jobName": "x" * 63}},
        {"predictor": {"resources": {"requests": {"cpu": 8, "memory": "16384Mi"}}}},
        {"predictor": {"resources": {"requests": {"nvidia.com/gpu": 1}}}},
        {"predictor": {"resources": {"requests": {"nvidia.com/gpu": "1000m"}}}},
        {"predictor": {"resources": {"requests": {"memory": 17179869184}}}},
        {"predictor": {"queueProxyResources": {"requests": {"memory": 838860800}}}},
        *(
            {"predictor": {"resources": {"limits": {"memory": text, "cpu": "8.", "x.io/y": "1e3"}}}}
            for text in ("8E", "+8Ei", "16e9", "16E9", "1.6e+10", "17179869184000m", 17179869184)
        ),
        {"predictor": {"resources": {"requests": {"cpu": "100u", "memory": ".5Gi"}}}},
        {"predictor": {"resources": {"requests": {"cpu": "100000n", "memory": "1e+3"}}}},
        {"predictor": {"queueProxyResources": {"limits": {"cpu": None, "memory": None}}}},
    ],
    ids=str,
)
def test_values_just_within_the_bounds_are_accepted(values: dict[str, Any]) -> None:
    assert render(values).predictors


def keys_of(values: dict[str, Any], parent: str = "") -> Iterator[str]:
    """The dotted paths of all values and of their sections."""
    for name, value in values.items():
        if "/" not in name:
            yield f"{parent}{name}"
            if isinstance(value, dict):
                yield from keys_of(value, f"{parent}{name}.")


@pytest.mark.parametrize(
    "key", [*keys_of(helm_python.values_from_yaml((CHART / "values.yaml").read_text("utf-8")))]
)
def test_a_null_value_works_or_is_rejected_in_a_sentence(key: str) -> None:
    """Helm removes a value that is null, so templates could fail in the middle of an expression."""
    try:
        render(with_value({}, key, None))
    except helm_python.HelmValuesError as refusal:
        assert f"missing property '{key.rpartition('.')[2]}'" in str(refusal)
    except helm_python.HelmRenderError as refusal:
        assert f"{key}." in str(refusal) or f"{key} is not set: set it" in str(refusal)
        assert "nil pointer" not in str(refusal)
        assert "invalid value" not in str(refusal)


def test_a_release_name_that_kserve_rejects_is_rejected_first() -> None:
    with pytest.raises(helm_python.HelmRenderError, match="set fullnameOverride"):
        render(release="2-pictures")


def test_external_autoscaling_can_start_from_zero() -> None:
    assert render(standard(autoscalerClass="external")).predictor["minReplicas"] == 0


@pytest.mark.parametrize("name", ["default", *sorted(CASES)])
def test_helm_lint_reports_only_the_missing_icon(name: str) -> None:
    report = helm_python.lint(CHART, case_values(name), strict=True)
    findings = [message["error"] for message in report["messages"]]
    assert findings == ["icon is recommended"]
    assert report["total_charts_linted"] == 1


def test_helm_lint_reports_an_invalid_value() -> None:
    assert helm_python.lint(CHART, {"model": {"name": ""}})["errors"]
