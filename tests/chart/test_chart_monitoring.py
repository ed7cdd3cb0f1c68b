"""Alerts and the dashboard ask only for metrics that somebody exports, in queries that parse."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import kserve.metrics
import promql_parser
import pytest
from prometheus_client import REGISTRY

from .rendering import CASES, ROOT, Rendered, case, render

OPERATIONS = (ROOT / "docs/operations.md").read_text("utf-8")
MONITORED = {"monitoring": {"podMonitor": {"enabled": True}, "rules": {"enabled": True}}}
# Real names, by who exports them.
OPERATOR_METRICS = {
    # Knative 1.21's proxy, where request-metrics-protocol is prometheus
    "kn_serving_invocation_duration_seconds_count",
    "kn_serving_queue_depth",
    # kube-state-metrics
    "kube_job_failed",
    "kube_pod_container_status_restarts_total",
    "kube_pod_status_ready",
    # NVIDIA's DCGM exporter
    "DCGM_FI_DEV_FB_FREE",
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_DEV_GPU_UTIL",
    # Prometheus itself
    "up",
}
ALERTS = {
    "StableDiffusionDown",
    "StableDiffusionRestarts",
    "StableDiffusionErrors",
    "StableDiffusionSlow",
    "StableDiffusionQueue",
    "StableDiffusionGpuMemory",
    "StableDiffusionDownloadFailed",
}


def exported_by_the_predictor() -> set[str]:
    """What KServe's ``/metrics`` really shows: its registry, histograms in their three series."""
    kserve.metrics.PREDICT_HIST_TIME.labels(model_name="any")
    kserve.metrics.POST_HIST_TIME.labels(model_name="any")
    return {sample.name for metric in REGISTRY.collect() for sample in metric.samples}


def metrics_of(node: Any) -> Iterator[str]:
    """The names of the metrics in a parsed query."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name
    elif isinstance(node, promql_parser.MatrixSelector):
        yield from metrics_of(node.vector_selector)
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from metrics_of(argument)
    else:
        for attribute in ("lhs", "rhs", "expr"):
            if (child := getattr(node, attribute, None)) is not None:
                yield from metrics_of(child)


def rules_of(rendered: Rendered) -> list[dict[str, Any]]:
    """All alerts."""
    groups = rendered.one("PrometheusRule")["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def rule(rendered: Rendered, alert: str) -> dict[str, Any]:
    """The first alert of a name."""
    return next(rule for rule in rules_of(rendered) if rule["alert"] == alert)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    config_map = case("monitored").one("ConfigMap")
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    parsed: dict[str, Any] = json.loads(config_map["data"]["stable-diffusion.json"])
    return parsed


def queries_of_the_dashboard() -> list[str]:
    targets = [target for panel in dashboard()["panels"] for target in panel["targets"]]
    return [target["expr"] for target in targets]


def test_the_parser_finds_metrics_wherever_they_stand() -> None:
    parsed = promql_parser.parse(
        '1 - (sum(rate(a{x="y"}[5m])) or vector(0)) / -b offset 5m > bool 2'
    )
    assert list(metrics_of(parsed)) == ["a", "b"]


@pytest.mark.parametrize("values", [MONITORED, "monitored"], ids=["without Knative's", "all"])
def test_alerts_ask_for_metrics_that_exist(values: Any) -> None:
    rendered = case(values) if isinstance(values, str) else render(values)
    known = exported_by_the_predictor() | OPERATOR_METRICS
    assert {rule["alert"] for rule in rules_of(rendered)} == ALERTS
    for alert in rules_of(rendered):
        names = set(metrics_of(promql_parser.parse(alert["expr"])))
        assert names
        assert names <= known, alert["alert"]


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    known = exported_by_the_predictor() | OPERATOR_METRICS
    queries = queries_of_the_dashboard()
    assert len(queries) >= 10
    for query in queries:
        assert set(metrics_of(promql_parser.parse(query))) <= known, query


def test_a_query_on_a_metric_that_nobody_exports_would_be_found() -> None:
    (name,) = metrics_of(promql_parser.parse("rate(request_predict_second_sum[5m])"))
    assert name not in exported_by_the_predictor() | OPERATOR_METRICS


def test_the_dashboards_variables_are_those_of_its_queries() -> None:
    defined = {variable["name"] for variable in dashboard()["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", " ".join(queries_of_the_dashboard())))
    assert used <= defined == {"datasource", "namespace", "inferenceservice"}
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)


def test_every_alert_leads_to_its_line_in_the_runbook() -> None:
    headings = set(re.findall(r"^### (\w+)$", OPERATIONS, re.MULTILINE))
    assert headings == ALERTS
    for alert in rules_of(case("monitored")):
        url = f"https://docs.example.com/operations.md#{alert['alert'].lower()}"
        assert alert["annotations"]["runbook_url"] == url
    for alert in rules_of(render(MONITORED)):
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"


def test_every_alert_says_which_service_and_how_grave() -> None:
    for alert in rules_of(case("monitored")):
        assert alert["labels"]["severity"] in ("warning", "critical")
        if alert["alert"] != "StableDiffusionDownloadFailed":
            assert alert["labels"]["inferenceservice"] == "stable-diffusion"
            assert "stable-diffusion" in alert["expr"]
        assert 'namespace="pictures"' in alert["expr"]


def test_each_model_has_its_alerts() -> None:
    models = [{"name": name, "source": "hf://owner/name"} for name in ("one", "two")]
    rendered = render({**MONITORED, "models": models})
    groups = [group["name"] for group in rendered.one("PrometheusRule")["spec"]["groups"]]
    assert groups == ["stable-diffusion-one", "stable-diffusion-two", "stable-diffusion-download"]


def test_no_pods_at_all_is_an_alarm_only_where_some_must_be() -> None:
    assert "absent" in rule(case("monitored"), "StableDiffusionDown")["expr"]
    assert "absent" not in rule(render(MONITORED), "StableDiffusionDown")["expr"]


def test_statuses_are_used_where_knative_tells_them() -> None:
    assert '=~"5.."' in rule(case("monitored"), "StableDiffusionErrors")["expr"]
    assert "postprocess" in rule(render(MONITORED), "StableDiffusionErrors")["expr"]


def test_the_95th_percentile_is_asked_for_as_far_as_the_buckets_go() -> None:
    def slow(seconds: float) -> str:
        rules = {"enabled": True, "latencySeconds": seconds}
        return str(rule(render({"monitoring": {"rules": rules}}), "StableDiffusionSlow")["expr"])

    bounds = kserve.metrics.PREDICT_HIST_TIME.labels(model_name="any")._upper_bounds
    assert bounds[-2] == 10.0
    assert slow(10).startswith("histogram_quantile(0.95")
    assert "quantile" not in slow(11)


def test_the_download_alert_watches_the_job_that_there_is() -> None:
    rendered = case("monitored")
    job = rendered.one("Job")["metadata"]["name"]
    assert f'job_name="{job}"' in rule(rendered, "StableDiffusionDownloadFailed")["expr"]


def test_the_pods_are_scraped_where_metrics_are_and_named_for_the_queries() -> None:
    spec = case("monitored").one("PodMonitor")["spec"]
    assert [end["portNumber"] for end in spec["podMetricsEndpoints"]] == [8080, 9091]
    for endpoint in spec["podMetricsEndpoints"]:
        assert endpoint["path"] == "/metrics"
        assert endpoint["interval"] == "15s"
        assert [one["targetLabel"] for one in endpoint["relabelings"]] == ["inferenceservice"]
    (expression,) = spec["selector"]["matchExpressions"]
    assert expression["values"] == ["stable-diffusion"]


@pytest.mark.parametrize("name", sorted(set(CASES) - {"monitored"}))
def test_nothing_watches_unless_asked_to(name: str) -> None:
    assert not set(case(name).kinds()) & {"PodMonitor", "PrometheusRule"}
