"""Pod hardening: Pod Security "restricted", no tokens, network policies."""

from __future__ import annotations

from typing import Any

import pytest

from .rendering import CASES, Object, case, plain_env, render

ALL_CASES = ["default", *sorted(CASES)]
CACHES = {
    "HF_HOME",
    "XDG_CACHE_HOME",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "CUDA_CACHE_PATH",
}
KNATIVE_PORTS = [8012, 8013, 8112, 9090]


def pods_of(name: str) -> list[Object]:
    """The specs of all pods of a case: predictors, Job, test, and those of the jobs program."""
    (test,) = case(name).hooks
    jobs = [*case(name).all_of("Deployment"), *case(name).all_of("StatefulSet")]
    pods = [*case(name).predictors.values(), case(name).downloader_pod, test["spec"]]
    return [*pods, *(item["spec"]["template"]["spec"] for item in jobs)]


def policy(rendered: Any, component: str) -> Object:
    """The spec of a component's network policy."""
    spec: Object = rendered.named("NetworkPolicy", f"stable-diffusion-{component}")["spec"]
    return spec


def ports(rules: list[Object]) -> list[list[int]]:
    return [[port["port"] for port in rule["ports"]] for rule in rules]


@pytest.mark.parametrize("name", ALL_CASES)
def test_every_container_is_restricted(name: str) -> None:
    for pod in pods_of(name):
        (container,) = pod["containers"]
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["runAsNonRoot"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert container["resources"]["limits"].keys() >= {"cpu", "memory"}


@pytest.mark.parametrize("name", ALL_CASES)
def test_no_pod_shares_anything_with_its_node(name: str) -> None:
    for pod in pods_of(name):
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        kinds = {kind for volume in pod.get("volumes", []) for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "persistentVolumeClaim", "configMap", "secret"}
        assert not [port for port in pod["containers"][0].get("ports", []) if "hostPort" in port]


@pytest.mark.parametrize("name", ALL_CASES)
def test_libraries_write_only_to_the_writable_folder(name: str) -> None:
    for predictor in case(name).predictors.values():
        (container,) = predictor["containers"]
        env = plain_env(container)
        assert env.keys() >= CACHES
        assert all(env[variable].startswith("/tmp/") for variable in CACHES)
        writable = [item for item in container["volumeMounts"] if not item.get("readOnly")]
        assert [item["mountPath"] for item in writable] == ["/tmp"]
    assert plain_env(case(name).downloader_container)["HF_HOME"].startswith("/tmp/")


@pytest.mark.parametrize("name", ALL_CASES)
def test_no_pod_mounts_the_token_of_its_service_account(name: str) -> None:
    accounts = {item["metadata"]["name"]: item for item in case(name).all_of("ServiceAccount")}
    assert all(item["automountServiceAccountToken"] is False for item in accounts.values())
    for predictor in case(name).predictors.values():
        # Set on the pod too: an account that the chart did not create may mount its token.
        assert predictor["automountServiceAccountToken"] is False
        assert (
            predictor["serviceAccountName"] in accounts
            or predictor["serviceAccountName"] == "team-predictor"
        )
    assert all(pod["automountServiceAccountToken"] is False for pod in pods_of(name))


def test_the_downloaders_account_can_have_the_annotations_of_a_cloud_identity() -> None:
    annotations = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/weights"}
    rendered = render({"downloader": {"serviceAccountAnnotations": annotations}})
    downloader = rendered.named("ServiceAccount", "stable-diffusion-downloader")
    assert downloader["metadata"]["annotations"] == annotations
    assert (
        "annotations"
        not in rendered.named("ServiceAccount", "stable-diffusion-predictor")["metadata"]
    )


@pytest.mark.parametrize("name", ALL_CASES)
def test_images_have_a_version_and_secrets_are_empty(name: str) -> None:
    for pod in pods_of(name):
        _, _, tag = pod["containers"][0]["image"].rpartition(":")
        assert tag[0].isdigit()
    for secret in case(name).all_of("Secret"):
        assert not secret.keys() & {"data", "stringData"}


def test_the_predictor_has_no_egress_and_admits_knatives_ports() -> None:
    spec = policy(case("default"), "predictor")
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in spec
    assert ports(spec["ingress"]) == [KNATIVE_PORTS]
    assert "from" not in spec["ingress"][0]


@pytest.mark.parametrize("name", ALL_CASES)
def test_applying_a_policy_again_changes_nothing(name: str) -> None:
    """The API server drops empty lists and adds protocols; `kubectl apply` would revert both."""
    for item in case(name).all_of("NetworkPolicy"):
        directions = [item["spec"].get(one) for one in ("ingress", "egress")]
        assert [] not in directions
        rules = [rule for direction in directions if direction for rule in direction]
        assert all("protocol" in port for rule in rules for port in rule["ports"])


def test_standard_mode_admits_the_predictors_own_port() -> None:
    assert ports(policy(case("standard"), "predictor")["ingress"]) == [[8080]]


def test_the_policy_selects_the_pods_of_every_model() -> None:
    selector = policy(case("many-models"), "predictor")["podSelector"]
    (expression,) = selector["matchExpressions"]
    assert expression["key"] == "serving.kserve.io/inferenceservice"
    assert expression["values"] == list(case("many-models").predictors)


def test_the_policy_admits_listed_callers_and_the_test_and_scrapers_separately() -> None:
    serving, metrics = policy(case("monitored"), "predictor")["ingress"]
    (test,) = case("monitored").hooks
    assert ports([serving, metrics]) == [KNATIVE_PORTS, [8080]]
    assert [peer for peer in serving["from"] if "namespaceSelector" in peer] == serving["from"][:2]
    labels = serving["from"][2]["podSelector"]["matchLabels"]
    assert labels.items() <= test["metadata"]["labels"].items()
    assert len(metrics["from"]) == 1


def test_the_job_reaches_dns_and_https_and_admits_no_traffic() -> None:
    rendered = case("default")
    spec = policy(rendered, "downloader")
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in spec
    assert ports(spec["egress"]) == [[53, 53], [443]]
    labels = rendered.one("Job")["spec"]["template"]["metadata"]["labels"]
    assert spec["podSelector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"s3": {"endpoint": "https://objects.example.com:9443"}}, [443, 9443]),
        ({"s3": {"endpoint": "http://minio.storage"}}, [443, 80]),
        ({"huggingface": {"endpoint": "http://hub.example.com:8080/mirror"}}, [443, 8080]),
        ({"huggingface": {"endpoint": "https://hub.example.com"}}, [443]),
    ],
    ids=str,
)
def test_the_job_reaches_the_ports_of_its_sources(
    values: dict[str, Any], expected: list[int]
) -> None:
    assert ports(policy(render(values), "downloader")["egress"])[1] == expected


def test_there_is_a_disruption_budget_for_more_than_one_replica() -> None:
    assert "PodDisruptionBudget" not in case("default").kinds()
    budget = case("standard").one("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"] == {
        "serving.kserve.io/inferenceservice": "stable-diffusion"
    }
    none = render({"predictor": {"maxUnavailable": None, "scaling": {"maxReplicas": 3}}})
    assert "PodDisruptionBudget" not in none.kinds()


def test_a_spread_constraint_selects_the_pods_of_its_own_service() -> None:
    constraint = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    selector = {"matchLabels": {"app": "other"}}
    rendered = render(
        {
            "predictor": {
                "topologySpreadConstraints": [constraint, {**constraint, "labelSelector": selector}]
            }
        }
    )
    own, other = rendered.predictor["topologySpreadConstraints"]
    label = {"serving.kserve.io/inferenceservice": "stable-diffusion"}
    assert own == {**constraint, "labelSelector": {"matchLabels": label}}
    assert other["labelSelector"] == selector


@pytest.mark.parametrize("name", ALL_CASES)
def test_a_terminating_pod_has_time_to_finish_its_pictures(name: str) -> None:
    for predictor in case(name).predictors.values():
        env = plain_env(predictor["containers"][0])
        needed = float(env["PREDICTOR_DRAIN_SECONDS"]) + float(env["PREDICTOR_SHUTDOWN_SECONDS"])
        # In Knative mode the grace period equals the request timeout; queue-proxy uses 30 s of it.
        queue_proxy = 0 if "terminationGracePeriodSeconds" in predictor else 30
        grace = predictor.get("terminationGracePeriodSeconds", predictor["timeout"])
        assert grace == needed + queue_proxy + 15
    assert case(name).downloader_pod["terminationGracePeriodSeconds"] == 30
