"""Each rule rejects what it should; otherwise the tests of the renderings would prove nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from . import knative_webhook, kserve_webhook, pod_validation, quota
from .configuration import features, kserve
from .knative_controller import queue_proxy_resources
from .quantities import canonical, number
from .renderings import pods, services, template_of

Object = dict[str, Any]
Change = Callable[[Object], object]


def service() -> Object:
    """The InferenceService of the manifests, for a test to change."""
    (item,) = services("manifests")
    return copy.deepcopy(item)


def container_of(item: Object) -> Object:
    container: Object = item["spec"]["predictor"]["containers"][0]
    return container


def predictor_pod() -> Object:
    """The predictor's pod of the manifests, for a test to change."""
    (made,) = [one for one in pods("manifests") if one.mode == "Knative"]
    return copy.deepcopy(made.pod)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        *(("1", "1"), (1, "1"), (0.5, "500m"), ("500m", "500m"), ("1000m", "1"), ("2000", "2k")),
        *(("16Gi", "16Gi"), ("16384Mi", "16Gi"), ("1.5Gi", "1536Mi"), ("1e3", "1k"), ("0", "0")),
    ],
)
def test_quantities_are_stored_in_canonical_form(written: Any, kept: str) -> None:
    assert canonical(written) == kept


@pytest.mark.parametrize("text", ["16GB", "plenty", "", "1Gib"])
def test_an_invalid_quantity_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|number"):
        number(text)


@pytest.mark.parametrize(
    ("section", "name", "filled_in"),
    [
        ("limits", "cpu", "1"),
        ("limits", "memory", "2Gi"),
        ("requests", "cpu", "1"),
        ("requests", "memory", "2Gi"),
    ],
)
def test_kserve_fills_in_missing_resources(section: str, name: str, filled_in: str) -> None:
    item = service()
    del container_of(item)["resources"][section][name]
    kept = kserve_webhook.stored(item, kserve())
    assert container_of(kept)["resources"][section][name] == filled_in


def test_kserves_cpu_limit_of_one_makes_the_pod_invalid() -> None:
    item = service()
    del container_of(item)["resources"]["limits"]["cpu"]
    kept = kserve_webhook.stored(item, kserve())
    (refusal,) = pod_validation.refusals(kept["spec"]["predictor"])
    assert "requests.cpu: '2': must be less than or equal to cpu limit of 1" in refusal


def test_kserve_stores_numbers_as_strings() -> None:
    item = service()
    container_of(item)["resources"]["limits"]["nvidia.com/gpu"] = 1
    assert kserve_webhook.stored(item, kserve()) != item


def test_a_cluster_can_have_other_defaults() -> None:
    config = kserve() | {"security": {"autoMountServiceAccountToken": False}}
    config["inferenceService"] = {"resource": {"cpuLimit": "", "memoryLimit": "4Gi"}}
    item = service()
    del item["spec"]["predictor"]["automountServiceAccountToken"]
    container_of(item)["resources"] = {}
    kept = kserve_webhook.stored(item, config)
    assert kept["spec"]["predictor"]["automountServiceAccountToken"] is False
    assert container_of(kept)["resources"] == {"limits": {"memory": "4Gi"}}


KSERVE: dict[str, Change] = {
    "the name": lambda item: item["metadata"].update(name="2-pictures"),
    "MinReplicas": lambda item: item["spec"]["predictor"].update(minReplicas=2),
    "parallelism": lambda item: item["spec"]["predictor"].update(containerConcurrency=-1),
    "[cpu]": lambda item: item["spec"]["predictor"].update(scaleMetric="cpu"),
    "PYTHONPATH": lambda item: container_of(item)["env"].append({"name": "PYTHONPATH"}),
    "Duplicate value: HF_HOME": lambda item: container_of(item)["env"].append({"name": "HF_HOME"}),
    "[kpa]": lambda item: item["metadata"]["annotations"].update(
        {kserve_webhook.AUTOSCALER_CLASS: "kpa"}
    ),
}


@pytest.mark.parametrize("said", KSERVE)
def test_kserve_rejects(said: str) -> None:
    item = service()
    KSERVE[said](item)
    (refusal,) = kserve_webhook.refusals(item)
    assert said in refusal


def user_container(template: Object) -> Object:
    container: Object = template["spec"]["containers"][0]
    return container


def annotate(name: str, value: str) -> Change:
    """A change that sets an annotation of a revision's template."""
    return lambda template: template["metadata"]["annotations"].update({name: value})


AUTOSCALING = "autoscaling.knative.dev"
KNATIVE: dict[str, Change] = {
    "max-scale is less": annotate(f"{AUTOSCALING}/min-scale", "2"),
    "target-utilization": annotate(f"{AUTOSCALING}/target-utilization-percentage", "101"),
    "target is too small": annotate(f"{AUTOSCALING}/target", "0"),
    "<= 2h <=": annotate(f"{AUTOSCALING}/scale-to-zero-pod-retention-period", "2h"),
    "progress-deadline": annotate("serving.knative.dev/progress-deadline", "1.5s"),
    "<= 601 <=": lambda item: item["spec"].update(timeoutSeconds=601),
    "responseStart": lambda item: item["spec"].update(timeoutSeconds=599),
    "containerConcurrency": lambda item: item["spec"].update(containerConcurrency=1001),
    "terminationGracePeriodSeconds": lambda item: item["spec"].update(
        terminationGracePeriodSeconds=600
    ),
    "podspec-securitycontext": lambda item: item["spec"].update(securityContext={}),
    "podspec-nodeselector": lambda item: item["spec"].update(nodeSelector={"a": "b"}),
    "automountServiceAccountToken": lambda item: item["spec"].update(
        automountServiceAccountToken=True
    ),
    "podspec-volumes-image": lambda item: item["spec"].update(
        volumes=[{"name": "scratch", "image": {"reference": "host/models:1"}}]
    ),
    "not mounted": lambda item: item["spec"]["volumes"].append({"name": "x", "emptyDir": {}}),
    "field csi (kubernetes.podspec-volumes-csi)": lambda item: item["spec"]["volumes"][0].update(
        csi=item["spec"]["volumes"][0].pop("emptyDir")
    ),
    "field nfs (no flag)": lambda item: item["spec"]["volumes"][0].update(
        nfs=item["spec"]["volumes"][0].pop("emptyDir")
    ),
    "field resourceClaims": lambda item: item["spec"].update(resourceClaims=[{"name": "gpu"}]),
    "field claims": lambda item: user_container(item)["resources"].update(claims=[{"name": "gpu"}]),
    "lifecycle": lambda item: user_container(item).update(lifecycle={}),
    "reserved container name": lambda item: user_container(item).update(name="queue-proxy"),
    "privileged": lambda item: user_container(item)["securityContext"].update(privileged=True),
    "addcapabilities": lambda item: user_container(item)["securityContext"].update(
        capabilities={"add": ["SYS_ADMIN"]}
    ),
    "K_SERVICE is a reserved": lambda item: user_container(item)["env"].append(
        {"name": "K_SERVICE"}
    ),
    "podspec-fieldref": lambda item: user_container(item)["env"].append(
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    ),
    "reserved path": lambda item: user_container(item)["volumeMounts"][0].update(mountPath="/dev"),
    "mountPropagation": lambda item: user_container(item)["volumeMounts"][0].update(
        mountPropagation="None"
    ),
    "more than one": lambda item: user_container(item)["ports"].append({"containerPort": 80}),
    "port name http ": lambda item: user_container(item)["ports"][0].update(name="http"),
    "8012 is a reserved port": lambda item: user_container(item)["ports"][0].update(
        containerPort=8012
    ),
    "must be TCP": lambda item: user_container(item)["ports"][0].update(protocol="UDP"),
    "of the host": lambda item: user_container(item)["ports"][0].update(hostPort=80),
    "without periodSeconds": lambda item: user_container(item)["readinessProbe"].pop(
        "periodSeconds"
    ),
    "successThreshold": lambda item: user_container(item)["readinessProbe"].update(
        successThreshold=0
    ),
}


@pytest.mark.parametrize("said", KNATIVE)
def test_knative_rejects(said: str) -> None:
    template = copy.deepcopy(template_of("manifests", service()))
    KNATIVE[said](template)
    (refusal,) = knative_webhook.refusals(template, features())
    assert said in refusal


def test_knative_accepts_few_fields_of_a_pods_security_context() -> None:
    template = copy.deepcopy(template_of("manifests", service()))
    flags = features("kubernetes.podspec-securitycontext")
    template["spec"]["securityContext"] = {"fsGroup": 65532}
    assert list(knative_webhook.refusals(template, flags)) == []
    template["spec"]["securityContext"]["fsGroupChangePolicy"] = "OnRootMismatch"
    (refusal,) = knative_webhook.refusals(template, flags)
    assert "securityContext.fsGroupChangePolicy" in refusal


def test_a_writable_claim_needs_two_flags() -> None:
    template = copy.deepcopy(template_of("manifests", service()))
    template["spec"]["volumes"][0] = {
        "name": "scratch",
        "persistentVolumeClaim": {"claimName": "models"},
    }
    claim, write = knative_webhook.refusals(template, features())
    assert "podspec-persistent-volume-claim" in claim
    assert "podspec-persistent-volume-write" in write


def test_knatives_secure_defaults_fill_an_empty_security_context() -> None:
    template = copy.deepcopy(template_of("manifests", service()))
    del user_container(template)["securityContext"]
    secured = knative_webhook.with_defaults(template, features("secure-pod-defaults"))
    assert user_container(secured)["securityContext"]["runAsNonRoot"] is True
    assert knative_webhook.with_defaults(template, features()) == template


def first(pod: Object) -> Object:
    container: Object = pod["containers"][0]
    return container


POD: dict[str, Change] = {
    "containers: Duplicate": lambda pod: pod["containers"][1].update(name="kserve-container"),
    "volumes: Duplicate": lambda pod: pod["volumes"].append({"name": "scratch", "emptyDir": {}}),
    "RFC 1123": lambda pod: first(pod).update(name="Kserve_container"),
    "one volume type": lambda pod: pod["volumes"][0].update(configMap={"name": "x"}),
    "sizeLimit": lambda pod: pod["volumes"][0]["emptyDir"].update(sizeLimit="4GB"),
    "image: Required": lambda pod: first(pod).pop("image"),
    "requests.memory": lambda pod: first(pod)["resources"]["requests"].update(memory="17Gi"),
    "requests.cpu: '2': must be less than or equal to cpu limit of 1": lambda pod: first(pod)[
        "resources"
    ]["limits"].update(cpu="1"),
    "must be equal to nvidia.com/gpu": lambda pod: first(pod)["resources"]["requests"].update(
        {"nvidia.com/gpu": "2"}
    ),
    "must be an integer": lambda pod: first(pod)["resources"]["limits"].update(
        {"nvidia.com/gpu": "500m"}
    ),
    "greater than or equal to 0": lambda pod: first(pod)["resources"]["limits"].update(
        {"ephemeral-storage": "-1"}
    ),
    "Duplicate value: HF_HOME": lambda pod: first(pod)["env"].append({"name": "HF_HOME"}),
    "is not a name": lambda pod: first(pod)["env"].append({"name": "A=B"}),
    "is not a string": lambda pod: first(pod)["env"].append({"name": "A", "value": 1}),
    "a value and valueFrom": lambda pod: first(pod)["env"].append(
        {"name": "A", "value": "1", "valueFrom": {}}
    ),
    "ports: Duplicate": lambda pod: first(pod)["ports"][0].update(name="queue-port"),
    "at most 15": lambda pod: first(pod)["ports"][0].update(name="a-port-of-the-user"),
    "between 1 and 65535": lambda pod: first(pod)["ports"][0].update(containerPort=0),
    "one handler type": lambda pod: first(pod)["livenessProbe"].update(exec={}),
    "greater than 0": lambda pod: first(pod)["livenessProbe"].update(periodSeconds=0),
    "successThreshold: must be 1": lambda pod: first(pod)["livenessProbe"].update(
        successThreshold=2
    ),
    "begin with '/'": lambda pod: first(pod)["livenessProbe"]["httpGet"].update(path="live"),
    "must be unique": lambda pod: first(pod)["volumeMounts"].append(
        {"name": "scratch", "mountPath": "/tmp"}
    ),
    "claims: gpu: Not found": lambda pod: first(pod)["resources"].update(claims=[{"name": "gpu"}]),
    "Not found": lambda pod: first(pod)["volumeMounts"][0].update(name="other"),
    "is not a path": lambda pod: first(pod)["volumeMounts"][0].update(mountPath="/a:b"),
    "relative path": lambda pod: first(pod)["volumeMounts"][0].update(subPath="../x"),
}


@pytest.mark.parametrize("said", POD)
def test_the_api_server_rejects(said: str) -> None:
    pod = predictor_pod()
    POD[said](pod)
    (refusal,) = pod_validation.refusals(pod)
    assert said in refusal


def test_a_quota_on_limits_rejects_stock_queue_proxy() -> None:
    pod = predictor_pod()
    pod["containers"][1]["resources"] = queue_proxy_resources({}, features())
    assert list(quota.refusals(pod, {"limits.cpu": "100", "requests.cpu": "100"})) == [
        "must specify limits.cpu for: queue-proxy"
    ]


def test_a_knative_flag_gives_queue_proxy_default_resources() -> None:
    flags = features("queueproxy.resource-defaults")
    assert queue_proxy_resources({}, flags) == {
        "requests": {"cpu": "25m", "memory": "400Mi"},
        "limits": {"cpu": "1000m", "memory": "800Mi"},
    }


@pytest.mark.parametrize(
    ("hard", "refused"),
    [
        ({"limits.cpu": "9"}, False),
        ({"limits.cpu": "8999m"}, True),
        ({"requests.memory": "8Gi"}, True),
        ({"requests.nvidia.com/gpu": "0"}, True),
        ({"requests.amd.com/gpu": "0"}, False),
        ({"pods": "0"}, True),
    ],
)
def test_a_quota_counts_all_containers(hard: dict[str, str], refused: bool) -> None:
    assert bool(list(quota.refusals(predictor_pod(), hard))) is refused
