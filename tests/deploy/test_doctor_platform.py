"""``doctor``: what our objects need from Kubernetes, KServe, Knative and routes, good and bad."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from deploy.checks.knative import flags_needed
from deploy.explain.refusal import feature_patch
from deploy.objects import load_objects, of_kind
from deploy.workload import pod_specs
from tests.deploy import shapes
from tests.deploy.api_server import DEVICES, GATEWAY, KUEUE, SNAPSHOTS
from tests.deploy.conftest import ROOT, Deployment, Run

Object = dict[str, Any]
MODE = "serving.kserve.io/deploymentMode"
IMAGE_URI = {"name": "STORAGE_URI", "value": "oci+native://registry.example.com/models/sd:1"}


def doctor(
    deployment: Deployment,
    *more: Object,
    predictor: Object | None = None,
    container: Object | None = None,
    spec: Object | None = None,
    claim: Object | None = None,
    mode: str = "Knative",
) -> Run:
    """Check the manifests with these fields replaced and these further objects."""
    objects = load_objects(ROOT / "manifests")
    (service,) = of_kind(objects, "InferenceService")
    (volume,) = of_kind(objects, "PersistentVolumeClaim")
    service["metadata"]["annotations"][MODE] = mode
    service["spec"]["predictor"] |= predictor or {}
    service["spec"]["predictor"]["containers"][0] |= container or {}
    service["spec"] |= spec or {}
    volume["spec"] |= claim or {}
    path = deployment.folder / "objects.yaml"
    path.write_text(yaml.safe_dump_all([*objects, *more]), "utf-8")
    deployment.manifests = path
    return deployment.run("doctor")


def line_of(done: Run, text: str) -> str:
    """The level of the only finding that contains the text."""
    (found,) = [line for line in done.out.splitlines() if text in line]
    return found[:4].strip()


def named(api_version: str, kind: str, name: str, **fields: Any) -> Object:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, **fields}


def volume(**source: Any) -> Object:
    return {"volumes": [{"name": "scratch", "emptyDir": {}}, {"name": "x", **source}]}


def configure(deployment: Deployment, key: str, config: Object) -> None:
    """Write a key of KServe's ConfigMap."""
    data = {key: json.dumps(config)}
    deployment.api.put(shapes.config_map("inferenceservice-config", "kserve", data))


@pytest.mark.parametrize(
    ("fields", "flag"),
    [
        ({"predictor": {"priorityClassName": "high"}}, "podspec-priorityclassname"),
        ({"predictor": {"runtimeClassName": "nvidia"}}, "podspec-runtimeclassname"),
        ({"predictor": {"affinity": {"nodeAffinity": {}}}}, "podspec-affinity"),
        ({"predictor": {"securityContext": {"fsGroup": 1}}}, "podspec-securitycontext"),
        (
            {"predictor": {"initContainers": [{"name": "i", "image": "a/b"}]}},
            "podspec-init-containers",
        ),
        ({"predictor": volume(image={"reference": "a/b:1"})}, "podspec-volumes-image"),
        ({"predictor": volume(hostPath={"path": "/models"})}, "podspec-volumes-hostpath"),
        ({"predictor": volume(csi={"driver": "x"})}, "podspec-volumes-csi"),
        ({"predictor": volume(ephemeral={})}, "podspec-volumes-ephemeral"),
        (
            {"container": {"securityContext": {"capabilities": {"add": ["IPC_LOCK"]}}}},
            "containerspec-addcapabilities",
        ),
        (
            {"container": {"volumeMounts": [{"name": "scratch", "mountPropagation": "None"}]}},
            "podspec-volumes-mount-propagation",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_field_needs_its_flag_of_knative(fields: Object, flag: str) -> None:
    service = shapes.service()
    predictor = service["spec"]["predictor"]
    predictor |= fields.get("predictor", {})
    predictor["containers"][0] |= fields.get("container", {})

    assert flags_needed(service).keys() - {"kubernetes.podspec-volumes-emptydir"} == {
        f"kubernetes.{flag}"
    }


@pytest.mark.parametrize(("value", "code"), [("Enabled", 0), ("allowed", 5)])
def test_a_volume_needs_more_than_an_allowed_flag(
    deployment: Deployment, value: str, code: int
) -> None:
    flag = "kubernetes.podspec-volumes-csi"
    deployment.api.put(shapes.config_map("config-features", "knative-serving", {flag: value}))

    done = doctor(deployment, predictor=volume(csi={"driver": "x"}))

    assert done.code == code
    assert (feature_patch([flag]) in done.out) == bool(code)


@pytest.mark.parametrize(
    ("field", "value", "key"),
    [
        ("timeout", 900, "max-revision-timeout-seconds"),
        ("containerConcurrency", 1500, "container-concurrency-max-limit"),
    ],
)
def test_the_bounds_of_knative(deployment: Deployment, field: str, value: int, key: str) -> None:
    expected = f"Knative refuses {field} {value}, because {key} is"

    stock = doctor(deployment, predictor={field: value})
    standard = doctor(deployment, predictor={field: value}, mode="Standard")
    deployment.api.put(shapes.config_map("config-defaults", "knative-serving", {key: str(value)}))
    raised = doctor(deployment, predictor={field: value})

    assert (stock.code, standard.code, raised.code) == (5, 0, 0)
    assert line_of(stock, expected) == "fail"
    assert f'\'{{"data":{{"{key}":"{value}"}}}}\'' in stock.out


def test_what_knative_accepts_with_no_flag(deployment: Deployment) -> None:
    deployment.api.kinds |= DEVICES
    deployment.api.put(named("resource.k8s.io/v1", "ResourceClaimTemplate", "gpu"))
    claims = [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]
    fields = {"resourceClaims": claims, **volume(nfs={"server": "s", "path": "/"})}

    knative = doctor(deployment, predictor=fields)
    standard = doctor(deployment, predictor=fields, mode="Standard")

    assert (knative.code, standard.code) == (5, 0)
    refused = "resourceClaims (knative/serving#15332) or a volume of the kind nfs"
    assert f"Knative does not accept {refused}" in knative.out
    assert "predictor.deploymentMode=Standard" in knative.out


@pytest.mark.parametrize(
    ("version", "level"), [("v1.32.9", "fail"), ("v1.34.1", "warn"), ("v1.35.0", None)]
)
@pytest.mark.parametrize(
    "fields",
    [
        {"predictor": volume(image={"reference": "a/b:1"})},
        {"container": {"env": [IMAGE_URI]}},
    ],
    ids=["volume", "uri"],
)
def test_the_version_of_kubernetes_for_image_volumes(
    deployment: Deployment, version: str, level: str | None, fields: Object
) -> None:
    deployment.api.git_version = version

    done = doctor(deployment, mode="Standard", **fields)

    mentioned = [line for line in done.out.splitlines() if "mounts an image as a volume" in line]
    assert [line[:4].strip() for line in mentioned] == [level] * (level is not None)


@pytest.mark.parametrize(
    ("version", "config", "level", "expected"),
    [
        ("v0.19.0", {"enableModelcar": True}, "fail", "its scheme needs KServe 0.20"),
        ("v0.20.0", {"enableModelcar": False}, "warn", "support for models in images is off"),
        ("v0.20.0", {"enableOciModelSupport": True}, None, "oci+native"),
        ("v0.20.0", {"enableModelcar": True}, None, "oci+native"),
    ],
)
def test_a_model_in_an_image_needs_kserves_support(
    deployment: Deployment, version: str, config: Object, level: str | None, expected: str
) -> None:
    deployment.api.git_version = "v1.36.0"
    deployment.api.put(shapes.kserve_controller(version))
    configure(deployment, "storageInitializer", config)

    done = doctor(deployment, container={"env": [IMAGE_URI]})

    found = [line for line in done.out.splitlines() if expected in line]
    assert [line[:4].strip() for line in found] == [level] * (level is not None)


CANARY = {"canary": [{"trafficPercent": 10, "predictor": {"name": "next"}}]}


@pytest.mark.parametrize(
    ("mode", "version", "gateway", "level", "expected"),
    [
        ("Knative", "v0.21.0", True, "fail", "KServe refuses `spec.canary` in Knative mode"),
        ("Standard", "v0.19.0", True, "fail", "needs KServe 0.20"),
        ("Standard", "v0.20.0", False, "warn", "`enableGatewayApi` is off"),
        ("Standard", "v0.20.0", True, None, "canary"),
    ],
)
def test_a_canary_in_standard_mode(
    deployment: Deployment,
    mode: str,
    version: str,
    gateway: bool,
    level: str | None,
    expected: str,
) -> None:
    deployment.api.put(shapes.kserve_controller(version))
    configure(deployment, "ingress", {"enableGatewayApi": gateway})

    done = doctor(deployment, spec=CANARY, mode=mode)

    found = [line for line in done.out.splitlines() if expected in line]
    assert [line[:4].strip() for line in found] == [level] * (level is not None)


def test_a_canary_behind_a_route_of_our_own(deployment: Deployment) -> None:
    deployment.api.kinds |= GATEWAY

    done = doctor(deployment, route(), spec=CANARY, mode="Standard")

    assert "enableGatewayApi" not in done.out


def test_the_percentage_of_a_canary_is_ignored_in_standard_mode(deployment: Deployment) -> None:
    knative = doctor(deployment, predictor={"canaryTrafficPercent": 10})
    standard = doctor(deployment, predictor={"canaryTrafficPercent": 10}, mode="Standard")

    assert (knative.code, standard.code) == (0, 5)
    assert line_of(standard, "KServe ignores canaryTrafficPercent in Standard mode") == "fail"


def test_the_pods_of_a_canary_inherit_and_override() -> None:
    override = {"name": "next", "containers": [{"name": "kserve-container", "image": "new"}]}
    service = shapes.service()
    service["spec"]["predictor"]["maxReplicas"] = 2
    service["spec"]["canary"] = [{"predictor": override}]

    (_, stable), (_, canary) = pod_specs([service])

    assert stable["containers"][0]["image"] == shapes.IMAGE
    assert (canary["containers"][0]["image"], canary["maxReplicas"]) == ("new", 2)


@pytest.mark.parametrize(("count", "warns"), [("1", False), ("2", True)])
def test_a_second_gpu_is_not_used(deployment: Deployment, count: str, warns: bool) -> None:
    limits = {"cpu": "8", "memory": "16Gi", "nvidia.com/gpu": count}
    resources = {"limits": limits, "requests": {"cpu": "2", "memory": "8Gi"}}

    done = doctor(deployment, container={"resources": resources})

    assert done.code == 0
    text = "inferenceservice/stable-diffusion requests 2 nvidia.com/gpu per pod"
    assert (text in done.out) == warns


@pytest.mark.parametrize(("gpus", "warns"), [("1", True), ("0", False)])
def test_a_gpu_by_limit_and_by_claim(deployment: Deployment, gpus: str, warns: bool) -> None:
    limits = {"cpu": "8", "memory": "16Gi", "nvidia.com/gpu": gpus}
    resources = {"limits": limits, "requests": {"cpu": "2", "memory": "8Gi"}}
    claims = {"resourceClaims": [{"name": "gpu", "resourceClaimName": "a"}]}

    done = doctor(deployment, container={"resources": resources}, predictor=claims, mode="Standard")

    assert ("requests 1 nvidia.com/gpu in addition to its resourceClaims" in done.out) == warns


@pytest.mark.parametrize(
    ("kind", "version", "fields"),
    [
        ("PriorityClass", "scheduling.k8s.io/v1", {"priorityClassName": "wanted"}),
        ("RuntimeClass", "node.k8s.io/v1", {"runtimeClassName": "wanted"}),
        ("ServiceAccount", "v1", {"serviceAccountName": "wanted"}),
        (
            "ResourceClaim",
            "resource.k8s.io/v1",
            {"resourceClaims": [{"name": "gpu", "resourceClaimName": "wanted"}]},
        ),
        (
            "ResourceClaimTemplate",
            "resource.k8s.io/v1",
            {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "wanted"}]},
        ),
    ],
)
def test_what_a_pod_names_must_exist(
    deployment: Deployment, kind: str, version: str, fields: Object
) -> None:
    deployment.api.kinds |= DEVICES
    wanted = named(version, kind, "wanted")

    missing = doctor(deployment, predictor=fields, mode="Standard")
    ours = doctor(deployment, wanted, predictor=fields, mode="Standard")
    deployment.api.put(wanted)
    there = doctor(deployment, predictor=fields, mode="Standard")

    assert (missing.code, ours.code, there.code) == (5, 0, 0)
    what = f"{kind.lower()} 'wanted', which inferenceservice/stable-diffusion names, does not exist"
    assert line_of(missing, what) == "fail"
    assert line_of(there, "everything that our objects name exists") == "ok"


def test_device_claims_without_dynamic_resource_allocation(deployment: Deployment) -> None:
    claims = [{"name": "gpu", "resourceClaimName": "a"}]

    done = doctor(deployment, predictor={"resourceClaims": claims}, mode="Standard")

    assert done.code == 5
    assert "The cluster has no dynamic resource allocation" in done.out


def test_a_class_that_we_may_not_read_is_a_warning(deployment: Deployment) -> None:
    deployment.api.denied |= {("get", "runtimeclasses")}

    done = doctor(deployment, predictor={"runtimeClassName": "nvidia"}, mode="Standard")

    assert done.code == 0
    assert line_of(done, "runtimeclass 'nvidia', which inferenceservice") == "warn"


def test_the_queue_of_a_job(deployment: Deployment) -> None:
    labels = {"kueue.x-k8s.io/queue-name": "gpus"}
    job = named("batch/v1", "Job", "extra", spec={})
    job["metadata"]["labels"] = labels

    without = doctor(deployment, job)
    deployment.api.kinds |= KUEUE
    missing = doctor(deployment, job)
    deployment.api.put(named("kueue.x-k8s.io/v1beta1", "LocalQueue", "gpus"))
    there = doctor(deployment, job)

    assert (without.code, missing.code, there.code) == (0, 5, 0)
    assert "Kueue is not installed" in without.out
    assert line_of(missing, "localqueue 'gpus', which job/extra names, does not exist") == "fail"


def ca_bundle(**source: Any) -> Object:
    return volume(configMap={"name": "company-ca", **source})


ITEM = {"key": "ca.crt", "path": "ca.crt"}


@pytest.mark.parametrize(
    ("fields", "data", "expected"),
    [
        ({"items": [ITEM]}, None, "configmap 'company-ca' does not exist"),
        (
            {"items": [ITEM]},
            {"root.pem": "-"},
            "configmap 'company-ca' has no key 'ca.crt'; it has root.pem",
        ),
        ({"items": [ITEM]}, {"ca.crt": "-"}, ""),
        ({}, {"root.pem": "-"}, ""),
        ({"items": [ITEM], "optional": True}, None, ""),
    ],
)
def test_the_config_map_of_a_volume_and_its_key(
    deployment: Deployment, fields: Object, data: Object | None, expected: str
) -> None:
    if data is not None:
        deployment.api.put(shapes.config_map("company-ca", "default", data))

    done = doctor(deployment, predictor=ca_bundle(**fields))

    assert done.code == (5 if expected else 0)
    assert f"{expected}, and inferenceservice/stable-diffusion needs it" in done.out or not expected
    assert ("create configmap company-ca --from-file=ca.crt=FILE" in done.out) == bool(expected)


def test_a_config_map_by_sub_path_variable_and_projection(deployment: Deployment) -> None:
    container = {
        "volumeMounts": [{"name": "x", "mountPath": "/a", "subPath": "by-sub-path"}],
        "env": [
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "company-ca", "key": "by-env"}}}
        ],
    }
    projected = {"name": "company-ca", "items": [{"key": "by-projection", "path": "p"}]}
    volumes = [
        *ca_bundle()["volumes"],
        {"name": "y", "projected": {"sources": [{"configMap": projected}]}},
    ]
    deployment.api.put(shapes.config_map("company-ca", "default", {}))

    done = doctor(deployment, predictor={"volumes": volumes}, container=container)

    for key in ("by-sub-path", "by-env", "by-projection"):
        assert f"configmap 'company-ca' has no key '{key}'" in done.out


def test_a_config_map_among_our_objects_is_enough(deployment: Deployment) -> None:
    ours = named("v1", "ConfigMap", "company-ca", data={"ca.crt": "-"})

    assert doctor(deployment, ours, predictor=ca_bundle(items=[ITEM])).code == 0


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (None, 5),
        ({"token": "eA=="}, 5),
        ({".dockerconfigjson": "e30="}, 0),
        ({".dockercfg": "e30="}, 0),
    ],
)
@pytest.mark.parametrize("where", ["predictor", "service account"])
def test_a_pull_secret_must_have_credentials_of_a_registry(
    deployment: Deployment, data: Object | None, code: int, where: str
) -> None:
    if data is not None:
        deployment.api.put(named("v1", "Secret", "registry", data=data))
    secrets = {"imagePullSecrets": [{"name": "registry"}]}
    account = named("v1", "ServiceAccount", "puller", **secrets)

    if where == "predictor":
        done = doctor(deployment, predictor=secrets)
    else:
        done = doctor(deployment, account)

    assert done.code == code
    assert ("create secret docker-registry registry" in done.out) == bool(code)


SNAPSHOT = {
    "dataSourceRef": {
        "apiGroup": "snapshot.storage.k8s.io",
        "kind": "VolumeSnapshot",
        "name": "weights",
    }
}


@pytest.mark.parametrize(
    ("status", "level", "expected"),
    [
        (None, "fail", "made from snapshot 'weights', which does not exist"),
        ({"readyToUse": False}, "warn", "which is not ready"),
        ({"readyToUse": False, "error": {"message": "no space"}}, "warn", "not ready: no space"),
        (
            {"readyToUse": True, "restoreSize": "40Gi"},
            "fail",
            "requests 20Gi, and snapshot 'weights' needs 40Gi",
        ),
        ({"readyToUse": True, "restoreSize": "20Gi"}, "ok", "made from snapshot 'weights', which"),
    ],
)
def test_the_snapshot_of_a_claim(
    deployment: Deployment, status: Object | None, level: str, expected: str
) -> None:
    deployment.api.kinds |= SNAPSHOTS
    if status is not None:
        item = named("snapshot.storage.k8s.io/v1", "VolumeSnapshot", "weights", status=status)
        deployment.api.put(item)

    done = doctor(deployment, claim=SNAPSHOT)

    assert done.code == (5 if level == "fail" else 0)
    assert line_of(done, expected) == level


def test_a_snapshot_without_its_crds(deployment: Deployment) -> None:
    done = doctor(deployment, claim=SNAPSHOT)

    assert done.code == 5
    assert "Install the snapshot CRDs and controller" in done.out


@pytest.mark.parametrize(
    ("size", "level", "expected"),
    [
        (None, "fail", "is a copy of claim 'master', which does not exist"),
        ("40Gi", "fail", "requests 20Gi, and claim 'master' needs 40Gi"),
        ("10Gi", "ok", "is made from claim 'master', which exists"),
    ],
)
def test_a_claim_that_is_a_copy(
    deployment: Deployment, size: str | None, level: str, expected: str
) -> None:
    if size:
        status = {"phase": "Bound", "capacity": {"storage": size}}
        deployment.api.put({**named("v1", "PersistentVolumeClaim", "master"), "status": status})
    source = {"dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "master"}}

    assert line_of(doctor(deployment, claim=source), expected) == level


@pytest.mark.parametrize(
    ("spec", "level", "expected"),
    [
        (None, "fail", "volume 'nfs-1' does not exist"),
        (
            {"accessModes": ["ReadWriteMany"], "claimRef": {"name": "other", "namespace": "b"}},
            "fail",
            "belongs to claim b/other",
        ),
        (
            {"accessModes": ["ReadWriteMany"], "storageClassName": "nfs"},
            "fail",
            "its class is '', and that of volume 'nfs-1' is 'nfs'",
        ),
        ({"accessModes": ["ReadWriteOnce"]}, "fail", "volume 'nfs-1' is not ReadWriteMany"),
        ({"accessModes": ["ReadWriteMany"]}, "ok", "volume 'nfs-1' exists and fits"),
        (
            {
                "accessModes": ["ReadWriteMany"],
                "claimRef": {"name": shapes.CLAIM, "namespace": "default"},
            },
            "ok",
            "volume 'nfs-1' exists and fits",
        ),
    ],
)
def test_a_claim_that_names_its_volume(
    deployment: Deployment, spec: Object | None, level: str, expected: str
) -> None:
    if spec is not None:
        deployment.api.put(named("v1", "PersistentVolume", "nfs-1", spec=spec))

    done = doctor(deployment, claim={"volumeName": "nfs-1", "storageClassName": ""})

    assert line_of(done, expected) == level


@pytest.mark.parametrize(
    ("mode", "predictor", "level", "expected"),
    [
        ("ReadWriteMany", {"maxReplicas": 3}, None, "predictors mount it"),
        ("ReadOnlyMany", {"maxReplicas": 3}, None, "predictors mount it"),
        ("ReadWriteOnce", {"maxReplicas": 1}, None, "predictors mount it"),
        ("ReadWriteOnce", {"maxReplicas": 3}, "warn", "up to 3 predictors mount it"),
        ("ReadWriteOnce", {"maxReplicas": 0}, "warn", "any number of predictors mount it"),
        (
            "ReadWriteOnce",
            {"maxReplicas": 3, "nodeSelector": {"kubernetes.io/hostname": "gpu-1"}},
            "ok",
            "up to 3 predictors mount it, all on node gpu-1",
        ),
        ("ReadWriteOncePod", {"maxReplicas": 3}, "fail", "but only one pod can"),
    ],
)
def test_a_claim_of_one_node_with_several_predictors(
    deployment: Deployment, mode: str, predictor: Object, level: str | None, expected: str
) -> None:
    done = doctor(deployment, claim={"accessModes": [mode]}, predictor=predictor, mode="Standard")

    found = [line for line in done.out.splitlines() if expected in line]
    assert [line[:4].strip() for line in found] == [level] * (level is not None)


def route(**parent: Any) -> Object:
    spec = {"parentRefs": [{"name": "public", **parent}]}
    return named("gateway.networking.k8s.io/v1", "HTTPRoute", "our-route", spec=spec)


def gateway(namespace: str, status: str = "True", **listener: Any) -> Object:
    item = named("gateway.networking.k8s.io/v1", "Gateway", "public")
    item["metadata"]["namespace"] = namespace
    listeners = [{"name": "https", "port": 443, **listener}]
    conditions = [shapes.condition("Programmed", status, "AddressNotAssigned", "no address")]
    return {**item, "spec": {"listeners": listeners}, "status": {"conditions": conditions}}


ALL = {"allowedRoutes": {"namespaces": {"from": "All"}}}


@pytest.mark.parametrize(
    ("parent", "item", "level", "expected"),
    [
        (
            {},
            None,
            "fail",
            "gateway default/public, to which httproute/our-route belongs, does",
        ),
        ({}, gateway("default"), "ok", "gateway default/public"),
        ({"namespace": "edge"}, gateway("edge"), "fail", "routes of its own namespace edge"),
        ({"namespace": "edge"}, gateway("edge", **ALL), "ok", "gateway edge/public"),
        ({"sectionName": "http"}, gateway("default"), "fail", "has no listener 'http'"),
        ({"sectionName": "https"}, gateway("default"), "ok", "gateway default/public"),
        ({}, gateway("default", "False"), "warn", "is not ready: no address"),
    ],
)
def test_the_gateway_of_a_route(
    deployment: Deployment, parent: Object, item: Object | None, level: str, expected: str
) -> None:
    deployment.api.kinds |= GATEWAY
    if item:
        deployment.api.put(item)

    done = doctor(deployment, route(**parent), mode="Standard")

    assert done.code == (5 if level == "fail" else 0)
    assert line_of(done, expected) == level


def test_a_route_without_the_gateway_api(deployment: Deployment) -> None:
    done = doctor(deployment, route(), mode="Standard")

    assert done.code == 5
    assert "The Gateway API is not installed: the cluster does not know HTTPRoute" in done.out
    assert "predictor.route.enabled=false" in done.out


@pytest.mark.parametrize(
    ("name", "default", "level", "expected"),
    [
        ("nginx", "false", "ok", "has an ingress class"),
        ("haproxy", "false", "fail", "ingress class 'haproxy', which ingress/ours names, does not"),
        (None, "false", "warn", "names no class, and the cluster has no default one"),
        (None, "true", "ok", "has an ingress class"),
    ],
)
def test_the_class_of_an_ingress(
    deployment: Deployment, name: str | None, default: str, level: str, expected: str
) -> None:
    item = named("networking.k8s.io/v1", "IngressClass", "nginx")
    item["metadata"]["annotations"] = {"ingressclass.kubernetes.io/is-default-class": default}
    deployment.api.put(item)
    ingress = named("networking.k8s.io/v1", "Ingress", "ours")
    ingress["spec"] = {"ingressClassName": name} if name else {}

    done = doctor(deployment, ingress, mode="Standard")

    assert line_of(done, expected) == level


def test_the_certificate_of_an_ingress_must_exist(deployment: Deployment) -> None:
    ingress = named("networking.k8s.io/v1", "Ingress", "ours")
    ingress["spec"] = {"tls": [{"secretName": "site-tls"}]}

    done = doctor(deployment, ingress, mode="Standard")

    assert "secret 'site-tls' does not exist, and ingress/ours needs it" in done.out
    assert "create secret tls site-tls --cert=FILE --key=FILE" in done.out
