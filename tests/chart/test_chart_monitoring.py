"""Alerts and the dashboard use only exported metrics, in queries that parse."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY

from jobs.api.metrics import metrics_text
from jobs.storage import ModelState, WebhookState
from predictor.metrics import REQUEST_SECONDS

from .rendering import CASES, CHART, ROOT, Rendered, case, case_values, plain_env, render

OPERATIONS = (ROOT / "docs/operations.md").read_text("utf-8")
OBSERVABILITY = (ROOT / "docs/observability.md").read_text("utf-8")
MONITORED = {"monitoring": {"podMonitor": {"enabled": True}, "rules": {"enabled": True}}}
# The contract with predictor/metrics.py: the series that queries may use, and their labels.
PREDICTOR_METRICS = {
    "diffusion_requests_total": {"model_name", "code"},
    "diffusion_request_seconds_bucket": {"model_name", "le"},
    "diffusion_stage_seconds_sum": {"model_name", "stage"},
    "diffusion_stage_seconds_count": {"model_name", "stage"},
    "diffusion_refused_total": {"reason"},
    "diffusion_megapixels_total": {"model_name"},
    "diffusion_pictures": {"model_name", "state"},
    "diffusion_lanes": {"model_name"},
    "diffusion_out_of_memory_total": {"model_name"},
}
# The contract with jobs/api/metrics.py.
JOBS_METRICS = {
    "diffusion_jobs_queued": {"model_name"},
    "diffusion_jobs_running": {"model_name"},
    "diffusion_jobs_oldest_seconds": {"model_name"},
    "diffusion_jobs_ended_total": {"model_name", "status"},
    "diffusion_jobs_webhooks": set(),
    "diffusion_jobs_webhooks_oldest_seconds": set(),
    "diffusion_jobs_webhooks_ended_total": {"outcome"},
    "diffusion_jobs_webhook_failures_total": set(),
}
# Added by the scrape.
SCRAPE_LABELS = {"namespace", "inferenceservice", "pod"}
# From prometheus_client, about the process.
PROCESS_METRICS = {"process_resident_memory_bytes"}
# Real metric names by exporter.
OPERATOR_METRICS = {
    # kube-state-metrics
    "kube_deployment_status_replicas_available",
    "kube_job_failed",
    "kube_pod_container_status_restarts_total",
    "kube_pod_status_ready",
    # NVIDIA's DCGM exporter
    "DCGM_FI_DEV_FB_FREE",
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_DEV_GPU_UTIL",
}
KNOWN = PREDICTOR_METRICS.keys() | JOBS_METRICS.keys() | PROCESS_METRICS | OPERATOR_METRICS
SERIES = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
ALERTS = {
    "StableDiffusionDown",
    "StableDiffusionRestarts",
    "StableDiffusionErrors",
    "StableDiffusionSlow",
    "StableDiffusionQueue",
    "StableDiffusionOutOfMemory",
    "StableDiffusionGpuMemory",
    "StableDiffusionDownloadFailed",
}
JOBS_ALERTS = {"StableDiffusionJobsDown", "StableDiffusionJobsOld", "StableDiffusionJobsFailed"}


def series_in_the_registry() -> set[str]:
    """The series on KServe's ``/metrics`` once each label has been used."""
    return {
        metric.name + suffix
        for metric in REGISTRY.collect()
        for suffix in SERIES.get(metric.type, [""])
    }


def selectors_of(node: Any) -> Iterator[promql_parser.VectorSelector]:
    """The metrics that a parsed query selects."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    elif isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from selectors_of(argument)
    else:
        for attribute in ("lhs", "rhs", "expr"):
            if (child := getattr(node, attribute, None)) is not None:
                yield from selectors_of(child)


def metrics_of(query: str) -> list[str]:
    """The names of the metrics in a query."""
    return [selector.name for selector in selectors_of(promql_parser.parse(query))]


def problems_of(query: str) -> list[str]:
    """The metrics and labels of a query that nothing exports, so that it would match no series."""
    found: list[str] = []
    for selector in selectors_of(promql_parser.parse(query)):
        matched = {matcher.name for matcher in selector.matchers.matchers}
        labels = (PREDICTOR_METRICS | JOBS_METRICS).get(selector.name, matched) | SCRAPE_LABELS
        found += [f"{selector.name}{{{label}}}" for label in sorted(matched - labels)]
        if selector.name not in KNOWN:
            found.append(selector.name)
    return found


def rules_of(rendered: Rendered) -> list[dict[str, Any]]:
    """All alerts."""
    groups = rendered.one("PrometheusRule")["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def rule(rendered: Rendered, alert: str) -> dict[str, Any]:
    """The first alert of a name."""
    return next(rule for rule in rules_of(rendered) if rule["alert"] == alert)


def dashboard() -> dict[str, Any]:
    """The parsed dashboard."""
    config_map = case("monitored").one("ConfigMap")
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    parsed: dict[str, Any] = json.loads(config_map["data"]["stable-diffusion.json"])
    return parsed


def queries_of_the_dashboard() -> list[str]:
    targets = [target for panel in dashboard()["panels"] for target in panel["targets"]]
    return [target["expr"] for target in targets]


def test_the_parser_finds_metrics_in_any_position() -> None:
    query = '1 - (sum(rate(a{x="y"}[5m])) or vector(0)) / -b offset 5m > bool 2'
    assert metrics_of(query) == ["a", "b"]


def test_the_predictor_exports_the_metrics_of_the_queries() -> None:
    assert PREDICTOR_METRICS.keys() | PROCESS_METRICS <= series_in_the_registry()
    # No percentile can exceed the largest bound: latencySeconds must stay below it.
    bounds = REQUEST_SECONDS.labels(model_name="any")._upper_bounds
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    rules = schema["properties"]["monitoring"]["properties"]["rules"]["properties"]
    assert bounds[-2] == rules["latencySeconds"]["exclusiveMaximum"]


@pytest.mark.parametrize("values", [MONITORED, case_values("monitored")], ids=["least", "all"])
def test_alerts_use_metrics_that_exist(values: Any) -> None:
    rendered = render(values)
    assert {rule["alert"] for rule in rules_of(rendered)} == ALERTS
    for alert in rules_of(rendered):
        assert metrics_of(alert["expr"])
        assert problems_of(alert["expr"]) == []


def test_the_jobs_program_has_its_alerts() -> None:
    alerts = rules_of(render({**MONITORED, "jobs": {"enabled": True}}))
    own = {alert["alert"]: alert for alert in alerts if alert["alert"] not in ALERTS}

    assert own.keys() == JOBS_ALERTS
    for alert in own.values():
        assert problems_of(alert["expr"]) == []
        assert 'namespace="pictures"' in alert["expr"]
        assert "stable-diffusion-jobs" in alert["expr"]
    assert own["StableDiffusionJobsOld"]["expr"].endswith("> 3600")


def test_the_jobs_program_exports_the_metrics_of_the_queries() -> None:
    text = metrics_text({"sd": ModelState(1, 2, 3.0, {})}, WebhookState(4, 5.0, {}, 6))
    exported: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", text, re.MULTILINE):
        exported.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))

    assert exported == JOBS_METRICS


def test_the_dashboard_uses_metrics_that_exist() -> None:
    queries = queries_of_the_dashboard()
    assert len(queries) >= 10
    for query in queries:
        assert problems_of(query) == []
    assert PREDICTOR_METRICS.keys() | JOBS_METRICS.keys() <= {
        name for query in queries for name in metrics_of(query)
    }


def test_the_dashboards_variables_query_a_metric_that_exists() -> None:
    variables = dashboard()["templating"]["list"][1:]
    for variable in variables:
        query = variable["query"]["query"]
        (selector,) = re.findall(r"^label_values\((.+), (?:namespace|inferenceservice)\)$", query)
        assert problems_of(selector) == []


def test_a_query_that_matches_no_series_is_found() -> None:
    assert problems_of("rate(diffusion_request_total[5m])") == ["diffusion_request_total"]
    assert problems_of('diffusion_lanes{state="waiting"}') == ["diffusion_lanes{state}"]


def test_the_dashboards_legends_use_labels_that_the_query_keeps() -> None:
    for target in [target for panel in dashboard()["panels"] for target in panel["targets"]]:
        legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        kept = re.findall(r" by \(([^)]+)\)", target["expr"])
        if kept or "sum(" in target["expr"]:
            assert legend <= set(re.split(r", ", kept[0] if kept else "")), target


def test_the_dashboards_variables_are_those_of_its_queries() -> None:
    defined = {variable["name"] for variable in dashboard()["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", " ".join(queries_of_the_dashboard())))
    assert used <= defined == {"datasource", "namespace", "inferenceservice"}
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)


def test_every_alert_links_to_its_section_in_the_runbook() -> None:
    headings = set(re.findall(r"^### (\w+)$", OPERATIONS, re.MULTILINE))
    assert headings == ALERTS | JOBS_ALERTS
    for alert in rules_of(case("monitored")):
        url = f"https://docs.example.com/operations.md#{alert['alert'].lower()}"
        assert alert["annotations"]["runbook_url"] == url
    for alert in rules_of(render(MONITORED)):
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"


def test_every_alert_has_a_service_and_a_severity() -> None:
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


def test_missing_pods_raise_an_alert_only_if_some_are_required() -> None:
    assert "absent" in rule(case("monitored"), "StableDiffusionDown")["expr"]
    assert "absent" not in rule(render(MONITORED), "StableDiffusionDown")["expr"]


def test_only_failures_of_the_service_count_as_errors() -> None:
    failed, all_requests = selectors_of(
        promql_parser.parse(rule(case("monitored"), "StableDiffusionErrors")["expr"])
    )
    (code,) = [matcher for matcher in failed.matchers.matchers if matcher.name == "code"]
    counted = [
        status
        for status in ("200", "400", "429", "499", "500", "503", "504")
        if re.fullmatch(code.value, status)
    ]
    assert counted == ["500", "503", "504"]
    assert "code" not in {matcher.name for matcher in all_requests.matchers.matchers}


def test_the_queue_alert_fires_above_the_concurrency() -> None:
    rendered = render({**MONITORED, "predictor": {"concurrency": 7}})
    assert rule(rendered, "StableDiffusionQueue")["expr"].endswith("> 7")


def test_keda_scales_on_metrics_that_exist() -> None:
    scaling = {"minReplicas": 1, "autoscalerClass": "keda", "prometheusAddress": "http://p"}
    rendered = render({"predictor": {"deploymentMode": "Standard", "scaling": scaling}})
    (metric,) = rendered.predictor["autoScaling"]["metrics"]
    query = metric["external"]["metric"]["query"]
    assert metrics_of(query) == ["diffusion_pictures"]
    assert problems_of(query) == []
    # Pictures in every state, but only of this service.
    (selector,) = selectors_of(promql_parser.parse(query))
    matched = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
    assert matched == {"namespace": "pictures", "inferenceservice": "stable-diffusion"}


def test_the_download_alert_watches_the_rendered_job() -> None:
    rendered = case("monitored")
    job = rendered.one("Job")["metadata"]["name"]
    assert f'job_name="{job}"' in rule(rendered, "StableDiffusionDownloadFailed")["expr"]


def test_the_pod_monitor_scrapes_the_metrics_and_labels_them_for_the_queries() -> None:
    spec = case("monitored").one("PodMonitor")["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    assert (endpoint["portNumber"], endpoint["path"]) == (8080, "/metrics")
    assert endpoint["interval"] == "15s"
    assert [one["targetLabel"] for one in endpoint["relabelings"]] == ["inferenceservice"]
    (expression,) = spec["selector"]["matchExpressions"]
    assert expression["values"] == ["stable-diffusion"]


def test_the_documented_query_uses_metrics_that_exist() -> None:
    (query,) = re.findall(r"```promql\n(.*?)```", OBSERVABILITY, re.DOTALL)
    assert problems_of(query) == []


def test_the_documented_values_send_traces_through_the_network_policy() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", OBSERVABILITY, re.DOTALL)
    values = yaml.safe_load(block)
    values["networkPolicy"]["enabled"] = True
    values["predictor"]["settings"] = {"log_format": "json", "log_prompts": True}
    rendered = render(values)
    env = plain_env(rendered.predictor_container)
    assert env["PREDICTOR_LOG_FORMAT"] == "json"
    assert env["PREDICTOR_LOG_PROMPTS"] == "true"
    endpoint = urlsplit(env["OTEL_EXPORTER_OTLP_ENDPOINT"])
    (policy,) = rendered.named("NetworkPolicy", "stable-diffusion-predictor")["spec"]["egress"]
    assert {endpoint.port, 53} == {port["port"] for port in policy["ports"]}


@pytest.mark.parametrize("name", sorted(set(CASES) - {"monitored"}))
def test_monitoring_is_off_by_default(name: str) -> None:
    assert not set(case(name).kinds()) & {"PodMonitor", "PrometheusRule"}
