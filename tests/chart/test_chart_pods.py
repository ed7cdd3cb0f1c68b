"""Images, certificates, variables, arguments, volumes and devices that users add to the pods."""

from __future__ import annotations

from typing import Any

import helm_python
import pytest

from hack.chart_values import SETTINGS_OF_THE_CHART

from .rendering import Object, case, plain_env, render
from .test_chart_values import CLAIM, DIGEST, QUEUE, VOLUME, with_value

BUNDLE_FILE = "/etc/ca-bundle/ca.crt"
STANDARD: Object = {"predictor": {"deploymentMode": "Standard", "scaling": {"minReplicas": 1}}}
COMPONENTS = ("predictor", "downloader")
MOUNTED: Object = {"volumes": [VOLUME], "volumeMounts": [{"name": "own", "mountPath": "/own"}]}


def rejected(values: Object) -> str:
    """The sentence with which the templates reject the values."""
    with pytest.raises(helm_python.HelmRenderError) as refusal:
        render(values)
    return str(refusal.value)


def pod_and_container(values: Object, component: str) -> tuple[Object, Object]:
    rendered = render(values)
    if component == "predictor":
        return rendered.predictor, rendered.predictor_container
    return rendered.downloader_pod, rendered.downloader_container


def variables_of(container: Object) -> dict[str, Object]:
    """The variables by name; each name must occur once."""
    names = [item["name"] for item in container["env"]]
    assert len(set(names)) == len(names)
    return {item["name"]: item for item in container["env"]}


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_digest_replaces_the_tag(component: str) -> None:
    image = {"repository": "host:5000/team/image", "tag": "1.2.3", "digest": DIGEST}
    rendered = render({component: {"image": image}})
    container = getattr(rendered, f"{component}_container")

    assert container["image"] == f"host:5000/team/image@{DIGEST}"
    if component == "predictor":
        (test,) = rendered.hooks
        assert test["spec"]["containers"][0]["image"] == container["image"]


@pytest.mark.parametrize("digest", ["sha256:0", f"{DIGEST}0", DIGEST.upper(), DIGEST[7:]])
def test_an_invalid_digest_is_rejected(digest: str) -> None:
    with pytest.raises(helm_python.HelmValuesError, match="/predictor/image/digest"):
        render({"predictor": {"image": {"digest": digest}}})


@pytest.mark.parametrize(
    ("bundle", "source"),
    [
        ({"configMap": "team-ca"}, {"configMap": {"name": "team-ca"}}),
        ({"secretName": "team-ca"}, {"secret": {"secretName": "team-ca"}}),
    ],
)
def test_every_pod_trusts_the_bundle(bundle: Object, source: Object) -> None:
    rendered = render({"caBundle": {**bundle, "key": "bundle.pem"}})
    (test,) = rendered.hooks
    (kind,) = source
    items = [{"key": "bundle.pem", "path": "ca.crt"}]
    for pod in (rendered.predictor, rendered.downloader_pod, test["spec"]):
        (container,) = pod["containers"]
        env = plain_env(container)
        assert env["SSL_CERT_FILE"] == env["REQUESTS_CA_BUNDLE"] == BUNDLE_FILE
        (mount,) = [one for one in container["volumeMounts"] if one["name"] == "ca-bundle"]
        assert mount == {"name": "ca-bundle", "mountPath": "/etc/ca-bundle", "readOnly": True}
        (volume,) = [one for one in pod["volumes"] if one["name"] == "ca-bundle"]
        assert volume[kind] == {**source[kind], "items": items}


def test_no_pod_has_a_bundle_by_default() -> None:
    rendered = render()
    text = str(rendered.objects + rendered.hooks)
    assert "ca-bundle" not in text
    assert "SSL_CERT_FILE" not in text


def test_the_test_pod_sends_its_key_and_trusts_the_bundle() -> None:
    key = {"secretName": "team-test", "key": "plain"}
    (test,) = render({"caBundle": {"configMap": "ca"}, "test": {"apiKey": key}}).hooks
    variables = variables_of(test["spec"]["containers"][0])
    assert set(variables) == {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "API_KEY"}
    assert variables["API_KEY"]["valueFrom"]["secretKeyRef"] == {
        "name": "team-test",
        "key": "plain",
    }


def test_a_bundle_of_two_kinds_is_rejected() -> None:
    bundle = {"configMap": "one", "secretName": "two"}
    assert "caBundle: configMap and secretName are both set" in rejected({"caBundle": bundle})


@pytest.mark.parametrize("component", COMPONENTS)
def test_an_own_variable_replaces_the_charts(component: str) -> None:
    own: list[Object] = [
        {"name": "HF_HOME", "value": "/tmp/own"},
        {"name": "OWN", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}},
    ]
    _, before = pod_and_container({}, component)
    _, container = pod_and_container({component: {"env": own}}, component)

    assert variables_of(container) == {**variables_of(before), "HF_HOME": own[0], "OWN": own[1]}


def test_an_own_variable_can_come_from_another_secret_and_of_the_bundle() -> None:
    reference = {"secretKeyRef": {"name": "vault", "key": "hub"}}
    own = [{"name": "HF_TOKEN", "valueFrom": reference}, {"name": "SSL_CERT_FILE", "value": "/own"}]
    _, container = pod_and_container(
        {"caBundle": {"configMap": "ca"}, "downloader": {"env": own}}, "downloader"
    )
    variables = variables_of(container)
    assert variables["HF_TOKEN"] == own[0]
    assert variables["SSL_CERT_FILE"]["value"] == "/own"
    assert variables["REQUESTS_CA_BUNDLE"]["value"] == BUNDLE_FILE


def test_an_own_number_of_threads_replaces_that_of_the_cpu_limit() -> None:
    own = [{"name": "OMP_NUM_THREADS", "value": "3"}]
    _, container = pod_and_container({"predictor": {"env": own}}, "predictor")
    assert variables_of(container)["OMP_NUM_THREADS"]["value"] == "3"


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_variable_that_is_set_twice_is_rejected(component: str) -> None:
    twice = [{"name": "OWN", "value": text} for text in ("a", "b")]
    assert f"{component}.env: OWN is set twice" in rejected({component: {"env": twice}})


@pytest.mark.parametrize(
    ("component", "name", "advice"),
    [
        ("predictor", "PREDICTOR_MAX_PIXELS", "use predictor.settings.max_pixels"),
        ("predictor", "PYTHONPATH", "remove it, because KServe rejects it"),
        ("predictor", "STORAGE_URI", "use storage.existingClaim"),
        ("downloader", "DOWNLOADER_NAME", "use model.name"),
        ("downloader", "DOWNLOADER_TARGET", "remove it"),
        ("downloader", "DOWNLOADER_MAX_WORKERS", "use downloader.maxWorkers"),
    ],
)
def test_a_variable_with_a_value_of_its_own_is_rejected(
    component: str, name: str, advice: str
) -> None:
    env = [{"name": name, "value": "1"}]
    assert f"{component}.env: {name}: {advice}" in rejected({component: {"env": env}})


@pytest.mark.parametrize("setting", sorted(SETTINGS_OF_THE_CHART))
def test_the_advice_does_not_lead_to_a_setting_that_the_chart_rejects(setting: str) -> None:
    env = [{"name": f"PREDICTOR_{setting.upper()}", "value": "1"}]
    assert "use predictor.settings" not in rejected({"predictor": {"env": env}})


def test_own_arguments_follow_those_of_the_chart() -> None:
    predictor = {"args": ["--enable_docs_url=true", "--timeout-keep-alive", "30"]}
    _, container = pod_and_container({"predictor": predictor}, "predictor")
    first, second, *own = container["args"]
    assert [first, second] == ["--model_name=stable-diffusion-v1-5", "--http_port=8080"]
    assert own == predictor["args"]

    _, downloader = pod_and_container({"downloader": {"args": ["verify"]}}, "downloader")
    assert downloader["args"] == ["verify"]
    assert "args" not in case("default").downloader_container


@pytest.mark.parametrize(
    ("argument", "advice"),
    [
        ("--model_name=other", "--model-name: use model.name"),
        ("--http-port", "--http-port: remove it"),
        ("--enable_grpc=true", "--enable-grpc: use predictor.grpc.enabled"),
        ("--ssl_certfile=/tls/tls.crt", "--ssl-certfile: remove it.*terminate TLS at the gateway"),
    ],
)
def test_an_argument_of_the_chart_is_rejected(argument: str, advice: str) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=f"predictor.args: {advice}"):
        render({"predictor": {"args": [argument]}})


@pytest.mark.parametrize("component", COMPONENTS)
def test_own_volumes_are_mounted(component: str) -> None:
    pod, container = pod_and_container({component: MOUNTED}, component)
    assert pod["volumes"][-1] == VOLUME
    assert container["volumeMounts"][-1] == {"name": "own", "mountPath": "/own"}


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("path", ["/tmp/own", "/dev/shm", "/mnt/other", "/etc/ssl", "/own/"])
def test_a_path_of_its_own_is_accepted(component: str, path: str) -> None:
    assert render(with_value({component: MOUNTED}, f"{component}.volumeMounts", mount(path)))


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("/", "/mnt/models"),
        ("/mnt", "/mnt/models"),
        ("/mnt/models", "/mnt/models"),
        ("/mnt/models/", "/mnt/models"),
        ("/mnt/models/own", "/mnt/models"),
        ("/tmp", "/tmp"),
        ("/etc", "/etc/ca-bundle"),
        ("/etc/ca-bundle", "/etc/ca-bundle"),
    ],
)
def test_a_path_that_collides_with_the_charts_is_rejected(
    component: str, path: str, taken: str
) -> None:
    values = {"caBundle": {"configMap": "ca"}, component: {**MOUNTED, "volumeMounts": mount(path)}}
    sentence = rejected(values)
    assert f"{component}.volumeMounts: {path.rstrip('/') or '/'} collides with {taken}," in sentence


@pytest.mark.parametrize(
    ("component", "given", "path"),
    [
        ("predictor", {"predictor": {"blockList": {"configMap": "terms"}}}, "/etc/predictor"),
        ("predictor", {"predictor": {"cache": {"claimName": "kernels"}}}, "/var/cache/predictor"),
        ("downloader", {"model": {"refiner": "hf://a/b"}}, "/etc/downloader"),
    ],
)
def test_a_path_is_taken_only_if_the_pod_mounts_it(
    component: str, given: Object, path: str
) -> None:
    own = with_value({component: {"volumes": [VOLUME]}}, f"{component}.volumeMounts", mount(path))
    assert render(own)
    assert "collides" in rejected(
        with_value({**given}, component, {**given.get(component, {}), **own[component]})
    )


def mount(path: str, name: str = "own") -> list[Object]:
    return [{"name": name, "mountPath": path}]


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("name", ["scratch", "kserve-pvc-source", "mnt-models", "ca-bundle"])
def test_a_name_that_the_pod_has_already_is_rejected(component: str, name: str) -> None:
    own = {"volumes": [{"name": name, "emptyDir": {}}], "volumeMounts": mount("/own", name)}
    sentence = rejected({"caBundle": {"configMap": "ca"}, component: own})
    assert f"{component}.volumes: the pod has another volume with the name {name}" in sentence


@pytest.mark.parametrize(
    ("predictor", "sentence"),
    [
        ({"volumeMounts": mount("/own")}, "the pod has no volume with the name own: add it to"),
        ({"volumeMounts": mount("/own", "mnt-models")}, "no volume with the name mnt-models"),
        (
            {"volumes": [VOLUME], "volumeMounts": mount("/own") + mount("/own/")},
            "/own is there twice",
        ),
        ({"volumes": [VOLUME]}, "own is not mounted, and Knative rejects volumes without a mount"),
        ({"volumes": [VOLUME], "volumeMounts": mount("/dev")}, "Knative rejects a mount at /dev"),
        (
            {"volumes": [{"name": "own", "nfs": {"server": "a"}}], "volumeMounts": mount("/own")},
            "own is of the kind nfs, which Knative rejects",
        ),
        (
            {"resourceClaims": [CLAIM]},
            "Knative rejects claims of devices. Use deploymentMode Standard",
        ),
    ],
)
def test_what_knative_or_the_api_server_would_reject_is_rejected(
    predictor: Object, sentence: str
) -> None:
    assert sentence in rejected({"predictor": predictor})


@pytest.mark.parametrize(
    ("predictor", "named"),
    [
        ({"volumes": [{"name": "own"}]}, "/predictor/volumes/0"),
        ({"volumes": [{"name": "own", "configmap": {"name": "a"}}]}, "'configmap' not allowed"),
        ({"volumes": [{"name": "Own", "emptyDir": {}}]}, "/predictor/volumes/0/name"),
        ({"volumes": [{"name": "a", "emptyDir": {}, "secret": {}}]}, "/predictor/volumes/0"),
        ({"volumeMounts": [{"name": "own", "mountPath": "own"}]}, "/volumeMounts/0/mountPath"),
        ({"volumeMounts": [{**mount("/own")[0], "readonly": True}]}, "'readonly' not allowed"),
        ({"volumeMounts": [{**mount("/own")[0], "subPath": "../a"}]}, "/volumeMounts/0/subPath"),
        ({"args": [8080]}, "/predictor/args/0"),
        ({"resourceClaims": [{"name": "gpu"}]}, "/predictor/resourceClaims/0"),
        ({"runtimeClassName": "a b"}, "/predictor/runtimeClassName"),
        ({"priorityClassName": "High"}, "/predictor/priorityClassName"),
    ],
)
def test_a_misspelt_field_is_rejected(predictor: dict[str, Any], named: str) -> None:
    with pytest.raises(helm_python.HelmValuesError) as refusal:
        render({"predictor": predictor})
    assert named in str(refusal.value)


def test_the_container_uses_every_device_claim() -> None:
    claims = [CLAIM, {"name": "network", "resourceClaimName": "nic"}]
    pod, container = pod_and_container(
        with_value(STANDARD, "predictor.resourceClaims", claims), "predictor"
    )
    assert pod["resourceClaims"] == claims
    assert container["resources"]["claims"] == [{"name": "gpu"}, {"name": "network"}]


def test_the_job_can_be_queued_and_deleted_after_its_end() -> None:
    job = render({"downloader": {"jobLabels": QUEUE, "ttlSecondsAfterFinished": 0}}).one("Job")
    assert job["metadata"]["labels"].items() >= QUEUE.items()
    # Kueue manages the Job, not its pods.
    assert not job["spec"]["template"]["metadata"]["labels"].keys() & QUEUE.keys()
    assert job["spec"]["ttlSecondsAfterFinished"] == 0


def test_a_label_of_the_job_does_not_create_another_job() -> None:
    queued = render({"downloader": {"jobLabels": QUEUE}}).one("Job")
    assert queued["metadata"]["name"] == case("default").one("Job")["metadata"]["name"]
