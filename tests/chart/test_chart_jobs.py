"""The objects of the jobs program, and the settings that they pass to it."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from jobs.__main__ import parse_arguments
from jobs.api.metrics import METRICS
from jobs.settings import Settings
from jobs.webhook_target import is_allowed

from .rendering import Object, Rendered, case, plain_env, render

JOBS: Object = {"enabled": True}
VALKEY: Object = {"enabled": True, "valkey": {"enabled": True}}
BUCKET: Object = {"url": "s3://team/jobs", "existingSecret": "team-bucket"}
NAME = "stable-diffusion-jobs"


def pod_of(rendered: Rendered, kind: str = "Deployment") -> Object:
    spec: Object = rendered.one(kind)["spec"]["template"]["spec"]
    return spec


def container_of(rendered: Rendered, kind: str = "Deployment") -> Object:
    (container,) = pod_of(rendered, kind)["containers"]
    assert isinstance(container, dict)
    return container


def two_models(mode: str) -> Rendered:
    """The objects for two models, each with a predictor of its own."""
    models = [{"name": name, "source": "hf://a/b"} for name in ("One.x", "two")]
    predictor = {"deploymentMode": mode, "scaling": {"minReplicas": 1}}
    return render({"jobs": JOBS, "models": models, "predictor": predictor})


def settings_of(rendered: Rendered, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that the program reads from the rendered variables."""
    for name, value in plain_env(container_of(rendered)).items():
        monkeypatch.setenv(name, value)
    return parse_arguments([])


def policy(rendered: Rendered, name: str = NAME) -> Object:
    spec: Object = rendered.named("NetworkPolicy", name)["spec"]
    return spec


def test_one_pod_keeps_the_jobs_in_sqlite_on_a_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = render({"jobs": JOBS})
    settings = settings_of(rendered, monkeypatch)
    claim = rendered.named("PersistentVolumeClaim", NAME)
    volumes = {volume["name"]: volume for volume in pod_of(rendered)["volumes"]}
    mounts = {one["name"]: one["mountPath"] for one in container_of(rendered)["volumeMounts"]}

    assert settings.redis_url is None
    assert str(settings.sqlite_path.parent) == mounts["jobs"]
    assert volumes["jobs"]["persistentVolumeClaim"]["claimName"] == NAME
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert rendered.one("Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    assert "PodDisruptionBudget" not in rendered.kinds()


def test_several_pods_share_a_valkey(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = case("jobs")
    settings = settings_of(rendered, monkeypatch)
    valkey = container_of(rendered, "StatefulSet")
    flags = dict(zip(valkey["args"][::2], valkey["args"][1::2], strict=True))
    (service,) = [
        one for one in rendered.all_of("Service") if one["spec"]["ports"][0]["port"] == 6379
    ]
    labels = rendered.one("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    budget = rendered.named("PodDisruptionBudget", NAME)

    assert settings.redis_url is not None
    url = f"redis://{service['metadata']['name']}.pictures.svc:6379/0"
    assert settings.redis_url.get_secret_value() == url
    assert service["spec"]["selector"].items() <= labels.items()
    assert flags["--appendonly"] == "yes"
    assert flags["--appendfsync"] == "everysec"
    assert flags["--maxmemory-policy"] == "noeviction"
    assert flags["--dir"] == valkey["volumeMounts"][0]["mountPath"]
    assert [one for one in rendered.all_of("PersistentVolumeClaim") if "jobs" in str(one)] == []
    assert budget["spec"]["maxUnavailable"] == 1
    assert "strategy" not in rendered.one("Deployment")["spec"]


def test_the_url_of_an_existing_redis_is_in_a_secret() -> None:
    values = {"jobs": {**JOBS, "replicas": 2, "redis": {"secretName": "team-redis"}}}
    egress = [{"ports": [{"port": 6379, "protocol": "TCP"}]}]
    rendered = render({**values, "networkPolicy": {"jobsEgress": egress}})
    variables = {one["name"]: one for one in container_of(rendered)["env"]}

    assert variables["JOBS_REDIS_URL"]["valueFrom"] == {
        "secretKeyRef": {"name": "team-redis", "key": "url"}
    }
    assert policy(rendered)["egress"][-1] == egress[0]
    assert "StatefulSet" not in rendered.kinds()
    assert "JOBS_SQLITE_PATH" not in variables


@pytest.mark.parametrize("mode", ["Knative", "Standard"])
def test_the_program_finds_the_predictor_of_each_model(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = two_models(mode)
    settings = settings_of(rendered, monkeypatch)
    (test,) = rendered.hooks
    tested = [one for one in test["spec"]["containers"][0]["args"] if "/v1/models/" in one]

    assert settings.model_names == ("One.x", "two")
    assert tested == [f"{settings.url_of(one)}/v1/models/{one}:predict" for one in ("One.x", "two")]


@pytest.mark.parametrize("mode", ["Knative", "Standard"])
def test_the_program_reads_the_metrics_of_all_ready_pods_of_a_predictor(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = two_models(mode)
    settings = settings_of(rendered, monkeypatch)
    services = {
        f"http://{one['metadata']['name']}.pictures.svc:{one['spec']['ports'][0]['port']}": one
        for one in rendered.all_of("Service")
    }
    found = [services[settings.metrics_url_of(name)]["spec"] for name in settings.model_names]
    ports = {
        port["containerPort"]
        for one in rendered.predictors.values()
        for port in one["containers"][0]["ports"]
    }
    ingress = policy(rendered, "stable-diffusion-predictor")["ingress"]
    own = rendered.one("Deployment")["spec"]["selector"]["matchLabels"]

    assert [one["clusterIP"] for one in found] == ["None", "None"]
    assert [one["selector"] for one in found] == [
        {"serving.kserve.io/inferenceservice": service, "component": "predictor"}
        for service in rendered.predictors
    ]
    assert {one["ports"][0]["port"] for one in found} == ports, "a headless Service maps no ports"
    assert not any(one.get("publishNotReadyAddresses") for one in found)
    assert [
        rule
        for rule in ingress
        if ports <= {port["port"] for port in rule["ports"]}
        and rule.get("from", [{}])[0].items() <= {"podSelector": {"matchLabels": own}}.items()
    ], "the policy admits the program"


def test_a_shared_predictor_serves_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    models = [{"name": name, "source": "hf://a/b"} for name in ("one", "two")]
    settings = settings_of(
        render({"jobs": JOBS, "models": models, "sharedPredictor": True}), monkeypatch
    )

    assert settings.url_of("one") == settings.url_of("two")
    assert settings.metrics_url_of("one") == settings.metrics_url_of("two")
    assert settings.url_of("one") == "http://stable-diffusion-predictor.pictures.svc"


def test_the_program_reads_its_keys_and_sends_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"apiKeys": {"secretName": "callers"}, "predictorApiKey": {"secretName": "worker"}}
    settings = {"key_jobs_per_minute": 30, "max_queue_bytes": 268435456}
    rendered = render({"jobs": {**JOBS, **keys, "settings": settings}})
    read = settings_of(rendered, monkeypatch)
    variables = {one["name"]: one for one in container_of(rendered)["env"]}
    volumes = {volume["name"]: volume for volume in pod_of(rendered)["volumes"]}
    mounts = {one["name"]: one["mountPath"] for one in container_of(rendered)["volumeMounts"]}

    assert read.api_keys_file is not None
    assert str(read.api_keys_file.parent) == mounts["api-keys"]
    assert volumes["api-keys"]["secret"]["secretName"] == "callers"
    assert (read.key_jobs_per_minute, read.max_queue_bytes) == (30, 268435456)
    assert variables["JOBS_PREDICTOR_API_KEY"]["valueFrom"] == {
        "secretKeyRef": {"name": "worker", "key": "api-key"}
    }


@pytest.mark.parametrize(("given", "seconds"), [({}, 35), ({"drain_seconds": 60.5}, 76)])
def test_a_pod_has_the_time_to_drain(
    given: Object, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = render({"jobs": {**JOBS, "settings": given}})
    settings = settings_of(rendered, monkeypatch)

    assert pod_of(rendered)["terminationGracePeriodSeconds"] == seconds
    assert seconds >= settings.drain_seconds + 15


def test_a_pod_that_others_replace_gets_no_connections_while_it_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rendered = case("jobs")
    pause = container_of(rendered)["lifecycle"]["preStop"]["exec"]["command"]
    grace = pod_of(rendered)["terminationGracePeriodSeconds"]

    assert pause[0] == "sleep"
    assert int(pause[1]) > 0
    assert grace >= int(pause[1]) + settings_of(rendered, monkeypatch).drain_seconds + 15
    assert "lifecycle" not in container_of(render({"jobs": JOBS})), "none replaces the only pod"


def test_a_service_of_the_namespace_sets_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBS_PORT", "tcp://10.96.0.7:80")
    with pytest.raises(SystemExit):
        parse_arguments([])

    assert pod_of(case("jobs"))["enableServiceLinks"] is False


def test_valkey_refuses_jobs_before_its_memory_is_full() -> None:
    valkey = container_of(case("jobs"), "StatefulSet")
    flags = dict(zip(valkey["args"][::2], valkey["args"][1::2], strict=True))

    assert valkey["resources"]["limits"]["memory"] == "4Gi"
    assert int(flags["--maxmemory"]) == 2 * 1024**3


def test_only_the_program_may_connect_to_valkey() -> None:
    rendered = case("jobs")
    (rule,) = policy(rendered, f"{NAME}-valkey")["ingress"]
    labels = rendered.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    peer = rule["from"][0]["podSelector"]["matchLabels"]

    assert [port["port"] for port in rule["ports"]] == [6379]
    assert peer.items() <= labels.items()
    assert not peer.items() <= rendered.one("StatefulSet")["metadata"]["labels"].items()
    assert "egress" not in policy(rendered, f"{NAME}-valkey")


def test_the_program_may_connect_to_the_predictors_and_to_valkey() -> None:
    names, predictors, valkey, _webhooks = policy(case("jobs"))["egress"]
    (expression,) = predictors["to"][0]["podSelector"]["matchExpressions"]
    (knative,) = policy(render({"jobs": JOBS}))["egress"][1:]

    assert {port["port"] for port in names["ports"]} == {53}
    assert expression["values"] == list(case("jobs").predictors)
    assert [port["port"] for port in predictors["ports"]] == [8080]
    assert [port["port"] for port in valkey["ports"]] == [6379]
    assert knative["to"] == [{"namespaceSelector": {}}], "any pod of the cluster, nothing outside"


def allowed_by(rule: Object, address: str) -> bool:
    """Whether a rule of a NetworkPolicy allows connections to an address."""
    found = ip_address(address)
    return any(
        found in ip_network(block["cidr"])
        and not any(found in ip_network(one) for one in block.get("except", []))
        for block in (peer["ipBlock"] for peer in rule["to"])
    )


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        *(("8.8.8.8", True), ("172.32.0.1", True), ("2606:4700::1111", True)),
        *(("10.96.0.1", False), ("172.20.0.1", False), ("192.168.1.1", False)),
        *(("127.0.0.1", False), ("100.64.0.1", False), ("169.254.169.254", False)),
        *(("168.63.129.16", False), ("192.0.0.192", False)),
        *(("::1", False), ("fd00:ec2::254", False), ("fe80::1", False)),
    ],
)
def test_webhooks_may_leave_the_cluster_and_reach_no_private_address(
    address: str, allowed: bool
) -> None:
    *_, webhooks = policy(case("jobs"))["egress"]

    assert [port["port"] for port in webhooks["ports"]] == [443]
    assert allowed_by(webhooks, address) is allowed
    assert is_allowed(address, ()) is allowed, "the program decides the same"


def test_webhooks_are_signed_with_a_secret_and_may_use_http(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {"webhook_allow_http": True, "webhook_timeout_seconds": 3}
    rendered = render({"jobs": {**JOBS, "webhooks": {"secretName": "any"}, "settings": settings}})
    read = settings_of(rendered, monkeypatch)
    variables = {one["name"]: one for one in container_of(rendered)["env"]}
    *_, webhooks = policy(rendered)["egress"]

    assert variables["JOBS_WEBHOOK_SECRETS"]["valueFrom"] == {
        "secretKeyRef": {"name": "any", "key": "webhook-secrets"}
    }
    assert (read.webhook_allow_http, read.webhook_timeout_seconds) == (True, 3)
    assert {port["port"] for port in webhooks["ports"]} == {80, 443}


def test_the_pictures_may_be_in_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    egress = [{"ports": [{"port": 9000, "protocol": "TCP"}]}]
    place = {"endpoint": "https://minio.example.com:9000", "region": "eu-west-1"}
    rendered = render(
        {
            "jobs": {**JOBS, "bucket": BUCKET | place},
            "networkPolicy": {"jobsEgress": egress},
            "caBundle": {"configMap": "team-ca"},
        }
    )
    variables = {one["name"]: one for one in container_of(rendered)["env"]}
    *others, last = policy(rendered)["egress"]

    assert settings_of(rendered, monkeypatch).bucket_url == "s3://team/jobs"
    assert variables["AWS_ENDPOINT_URL"]["value"] == place["endpoint"]
    assert variables["AWS_REGION"]["value"] == "eu-west-1"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        reference = {"name": "team-bucket", "key": name, "optional": False}
        assert variables[name]["valueFrom"] == {"secretKeyRef": reference}
    assert variables["AWS_SESSION_TOKEN"]["valueFrom"]["secretKeyRef"]["optional"] is True
    assert variables["REQUESTS_CA_BUNDLE"]["value"] == "/etc/ca-bundle/ca.crt"
    assert last == egress[0]
    assert not [rule for rule in others if "ipBlock" in str(rule)]


def test_a_service_account_with_access_to_the_bucket_needs_no_secret() -> None:
    annotations = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/pictures"}
    rendered = render(
        {
            "jobs": {
                **JOBS,
                "bucket": {"url": "s3://team/jobs"},
                "serviceAccountAnnotations": annotations,
                "settings": {"webhook_allow_http": True},
            }
        }
    )
    account = rendered.named("ServiceAccount", pod_of(rendered)["serviceAccountName"])
    *_, amazon = policy(rendered)["egress"]

    assert account["metadata"]["annotations"] == annotations
    assert not [one for one in container_of(rendered)["env"] if one["name"].startswith("AWS_")]
    assert [port["port"] for port in amazon["ports"]] == [443], "HTTP is only for webhooks"
    assert allowed_by(amazon, "52.216.1.1")
    assert not allowed_by(amazon, "10.0.0.1")


def test_a_restricted_predictor_admits_the_program() -> None:
    peer = {"namespaceSelector": {"matchLabels": {"team": "pictures"}}}
    rendered = render({"jobs": JOBS, "networkPolicy": {"ingressFrom": [peer]}})
    sources = policy(rendered, "stable-diffusion-predictor")["ingress"][0]["from"]
    labels = rendered.one("Deployment")["spec"]["template"]["metadata"]["labels"]

    assert sources[0] == peer
    assert [
        one for one in sources[1:] if one["podSelector"]["matchLabels"].items() <= labels.items()
    ]


def test_keda_scales_each_deployment_of_kserve_by_its_own_jobs() -> None:
    rendered = case("jobs")
    metrics = {name for name, *_ in METRICS}
    scaled = {one["spec"]["scaleTargetRef"]["name"]: one["spec"] for one in all_scaled(rendered)}

    assert list(scaled) == [f"{name}-predictor" for name in rendered.predictors]
    for model, spec in zip(("sdxl", "turbo"), scaled.values(), strict=True):
        triggers = {one["name"]: one["metadata"] for one in spec["triggers"]}
        found = [
            re.fullmatch(r'(\w+)\{model_name="(\w+)"\}', one["valueLocation"])
            for one in triggers.values()
        ]
        assert {one[1] for one in found if one} == {
            "diffusion_jobs_queued",
            "diffusion_jobs_running",
        }
        assert {one[1] for one in found if one} <= metrics
        assert {one[2] for one in found if one} == {model}
        modifiers = spec["advanced"]["scalingModifiers"]
        assert modifiers == {"formula": " + ".join(triggers), "target": "16"}
        assert {one["url"] for one in triggers.values()} == {f"http://{NAME}.pictures.svc/metrics"}
        assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 3)
    for service in rendered.all_of("InferenceService"):
        annotations = service["metadata"]["annotations"]
        assert annotations["serving.kserve.io/autoscalerClass"] == "external"


def test_keda_adds_up_the_jobs_of_a_shared_predictor() -> None:
    models = [{"name": name, "source": "hf://a/b"} for name in ("one", "two")]
    scaling = {"minReplicas": 0, "autoscalerClass": "external"}
    rendered = render(
        {
            "jobs": {**JOBS, "keda": {"enabled": True, "jobsPerPod": 5}},
            "models": models,
            "sharedPredictor": True,
            "predictor": {"deploymentMode": "Standard", "scaling": scaling},
        }
    )
    (one,) = all_scaled(rendered)

    assert one["spec"]["scaleTargetRef"]["name"] == "stable-diffusion-predictor"
    formula = one["spec"]["advanced"]["scalingModifiers"]["formula"]
    assert formula == "queued0 + running0 + queued1 + running1"
    assert one["spec"]["advanced"]["scalingModifiers"]["target"] == "5"


def all_scaled(rendered: Rendered) -> list[Any]:
    return rendered.all_of("ScaledObject")


def test_prometheus_scrapes_the_program() -> None:
    rendered = render({"jobs": JOBS, "monitoring": {"podMonitor": {"enabled": True}}})
    spec = rendered.named("PodMonitor", NAME)["spec"]
    labels = rendered.one("Deployment")["spec"]["template"]["metadata"]["labels"]

    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert [one["portNumber"] for one in spec["podMetricsEndpoints"]] == [8081]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"jobs": {**JOBS, "replicas": 2}}, r"jobs.replicas: pods cannot share"),
        ({"jobs": {**VALKEY, "redis": {"secretName": "any"}}}, r"set one of the two"),
        (
            {"jobs": VALKEY, "networkPolicy": {"enabled": False}},
            r"jobs.valkey: it has no password",
        ),
        ({"jobs": {**JOBS, "redis": {"secretName": "any"}}}, r"networkPolicy.jobsEgress"),
        (
            {"jobs": {**JOBS, "bucket": {**BUCKET, "endpoint": "http://minio:9000"}}},
            r"jobs.bucket.endpoint: the network policy blocks",
        ),
        ({"jobs": {**JOBS, "settings": {"bucket_url": "s3://a"}}}, r"bucket_url"),
        (
            {"jobs": JOBS, "predictor": {"apiKeys": {"secretName": "any"}}},
            r"set jobs.predictorApiKey.secretName",
        ),
        (
            {"jobs": {**JOBS, "settings": {"key_queued_jobs": 3}}},
            r"key_queued_jobs: a limit per key requires keys",
        ),
        (
            {"jobs": {**JOBS, "settings": {"webhook_networks": "10.0.0.0/8"}}},
            r"webhook_networks: the network policy blocks",
        ),
        ({"jobs": {**JOBS, "settings": {"webhook_secrets": "whsec_a"}}}, r"webhook_secrets"),
        ({"jobs": {**JOBS, "keda": {"enabled": True}}}, r"with deploymentMode Knative the calls"),
        (
            {
                "jobs": {**JOBS, "keda": {"enabled": True}},
                "predictor": {
                    "deploymentMode": "Standard",
                    "scaling": {"minReplicas": 1, "autoscalerClass": "hpa"},
                },
            },
            r"autoscalerClass is hpa, with which KServe controls",
        ),
        *(
            (
                {"jobs": VALKEY, "models": [{"name": name, "source": "hf://a/b"} for name in two]},
                r"would have the name of a Service of the jobs program",
            )
            for two in (("jobs", "other"), ("jobs-valkey", "other"))
        ),
        ({"jobs": {**JOBS, "settings": {"max_try": 3}}}, r"max_try"),
    ],
)
def test_values_that_cannot_work_are_rejected(values: Object, reason: str) -> None:
    with pytest.raises(Exception, match=reason):
        render(values)


def test_the_values_of_a_release_before_jobs_still_render() -> None:
    """`helm upgrade --reuse-values` keeps the old values, which have no `jobs`."""
    everything = {"podMonitor": {"enabled": True}, "rules": {"enabled": True}}
    peer = {"namespaceSelector": {"matchLabels": {"team": "pictures"}}}
    rendered = render(
        {"jobs": None, "monitoring": everything, "networkPolicy": {"ingressFrom": [peer]}}
    )

    assert "Deployment" not in rendered.kinds()
