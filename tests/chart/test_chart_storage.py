"""Where the models come from: claims, static volumes, copies of a claim, and images."""

from __future__ import annotations

from typing import Any

import helm_python
import kubernetes_validate
import pytest

from .rendering import Object, Rendered, case, plain_env, render
from .strictness import sdk_problems
from .test_chart_api_fields import FOREIGN_KINDS, KUBERNETES_VERSIONS

IMAGE = "registry.example.com/team/models:2026-11"
SOURCE = f"oci+native://{IMAGE}"
IN_IMAGE: Object = {"model": {"name": "sdxl", "source": SOURCE}}
SNAPSHOT: Object = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "old"}
STANDARD: Object = {"deploymentMode": "Standard", "scaling": {"minReplicas": 1}}
OWN_CACHE: Object = {"cache": {"size": "7Gi", "subPath": "kernels"}}


def claim(**storage: Any) -> Object:
    """The spec of the models' claim."""
    spec: Object = render({"storage": storage}).one("PersistentVolumeClaim")["spec"]
    return spec


def assert_known_to_kubernetes(rendered: Rendered) -> None:
    for item in rendered.objects:
        if item["kind"] == "InferenceService":
            assert sdk_problems(item) == []
        for version in KUBERNETES_VERSIONS if item["kind"] not in FOREIGN_KINDS else ():
            assert kubernetes_validate.validate(item, version, strict=True) == version


def test_a_claim_leaves_the_choice_of_its_volume_to_the_cluster() -> None:
    assert claim().keys() == {"accessModes", "resources"}
    assert "storageClassName" not in claim(storageClassName=None)


def test_a_dash_stands_for_no_storage_class() -> None:
    assert claim(storageClassName="-")["storageClassName"] == ""
    assert claim(storageClassName="files")["storageClassName"] == "files"


def test_a_claim_can_name_its_volume_and_its_source() -> None:
    spec = claim(storageClassName="-", volumeName="nfs-models", dataSourceRef=SNAPSHOT)
    assert spec["volumeName"] == "nfs-models"
    assert spec["dataSourceRef"] == SNAPSHOT
    assert_known_to_kubernetes(render({"storage": {"dataSourceRef": SNAPSHOT}}))


@pytest.mark.parametrize("origin", [{"dataSourceRef": SNAPSHOT}, {"volumeName": "filled"}], ids=str)
def test_no_job_writes_to_a_claim_that_can_only_be_read(origin: Object) -> None:
    storage = {"accessModes": ["ReadOnlyMany"], "mount": "volume", **origin}
    rendered = render({"storage": storage})

    assert not {"Job", "Secret"} & set(rendered.kinds())
    assert "job/" not in rendered.notes
    assert [one["metadata"]["name"] for one in rendered.all_of("NetworkPolicy")] == [
        "stable-diffusion-predictor"
    ]
    assert "PREDICTOR_MAX_DOWNLOAD_WAIT_SECONDS" not in plain_env(rendered.predictor_container)
    volumes = {one["name"]: one for one in rendered.predictor["volumes"]}
    assert volumes["models"]["persistentVolumeClaim"]["readOnly"] is True


def test_a_claim_that_can_also_be_written_keeps_its_job() -> None:
    modes = ["ReadWriteOnce", "ReadOnlyMany"]
    assert render({"storage": {"accessModes": modes}}).all_of("Job")
    existing = {"existingClaim": "team", "accessModes": ["ReadOnlyMany"]}
    assert render({"storage": existing}).all_of("Job")


def test_a_model_in_an_image_needs_no_claim_and_no_job() -> None:
    rendered = render(IN_IMAGE)
    container = rendered.predictor_container

    assert rendered.kinds() == ["InferenceService", "NetworkPolicy", "ServiceAccount"]
    assert plain_env(container)["STORAGE_URI"] == SOURCE
    assert plain_env(container)["PREDICTOR_MODEL_DIR"] == "/mnt/models/sdxl"
    assert "PREDICTOR_MAX_DOWNLOAD_WAIT_SECONDS" not in plain_env(container)
    assert "job/" not in rendered.notes
    assert "1. Request a picture" in rendered.notes
    assert_known_to_kubernetes(rendered)


def test_the_chart_can_mount_the_image_itself() -> None:
    values = IN_IMAGE | {"storage": {"mount": "volume"}}
    rendered = render(values)
    container = rendered.predictor_container
    (mount,) = [one for one in container["volumeMounts"] if one["name"] == "models"]
    (volume,) = [one for one in rendered.predictor["volumes"] if one["name"] == "models"]

    assert "STORAGE_URI" not in plain_env(container)
    assert volume["image"] == {"reference": IMAGE, "pullPolicy": "IfNotPresent"}
    # KServe mounts the same folder, so an image works in both ways.
    assert mount == {
        "name": "models",
        "mountPath": "/mnt/models",
        "subPath": "models",
        "readOnly": True,
    }
    assert_known_to_kubernetes(rendered)


def test_models_in_images_and_on_the_claim_can_be_mixed() -> None:
    models = [
        {"name": "in-image", "source": SOURCE},
        {"name": "on-claim", "source": "hf://owner/name@main", "variant": ""},
    ]
    rendered = render({"models": models, "monitoring": {"rules": {"enabled": True}}})
    image, plain = (one["containers"][0] for one in rendered.predictors.values())

    env = plain_env(rendered.downloader_container)
    assert (env["DOWNLOADER_NAME"], env["DOWNLOADER_SOURCE"]) == (
        "on-claim",
        "hf://owner/name@main",
    )
    assert plain_env(image)["STORAGE_URI"] == SOURCE
    assert plain_env(plain)["STORAGE_URI"] == "pvc://stable-diffusion-models/"
    waits = ["PREDICTOR_MAX_DOWNLOAD_WAIT_SECONDS" in plain_env(one) for one in (image, plain)]
    assert waits == [False, True]


def test_a_shared_predictor_can_mount_one_image_with_all_models() -> None:
    models = [{"name": name, "source": SOURCE} for name in ("first", "second")]
    rendered = render({"models": models, "sharedPredictor": True})
    assert plain_env(rendered.predictor_container)["STORAGE_URI"] == SOURCE
    assert not rendered.all_of("PersistentVolumeClaim")


@pytest.mark.parametrize("tag", ["1.0", "1.0@sha256:" + "0" * 64])
def test_the_reference_of_an_image_needs_a_tag_or_a_digest(tag: str) -> None:
    digest = "sha256:" + "0" * 64
    for reference in (f"host:5000/a/b_c:{tag}", f"host/a@{digest}"):
        source = f"oci+native://{reference}"
        rendered = render({"model": {"source": source}})
        assert plain_env(rendered.predictor_container)["STORAGE_URI"] == source


@pytest.mark.parametrize(
    ("values", "named"),
    [
        *(
            ({"model": {"source": source}}, "/model/source")
            for source in (
                "oci+native://host/no-tag",
                "oci+native://image:tag",
                "oci+native://host/Upper:tag",
            )
        ),
        ({"storage": {"storageClassName": "Files"}}, "/storage/storageClassName"),
        ({"storage": {"storageClassName": "--"}}, "/storage/storageClassName"),
        ({"storage": {"volumeName": "a b"}}, "/storage/volumeName"),
        ({"storage": {"dataSourceRef": {"name": "old"}}}, "missing property 'kind'"),
        ({"storage": {"dataSourceRef": {**SNAPSHOT, "namespace": "x"}}}, "'namespace' not allowed"),
        ({"storage": {"accessModes": ["ReadOnlyOnce"]}}, "/storage/accessModes"),
        ({"predictor": {"cache": {"size": "plenty"}}}, "/predictor/cache/size"),
        ({"predictor": {"cache": {"accessModes": ["ReadOnlyMany"]}}}, "/cache/accessModes"),
    ],
    ids=str,
)
def test_the_schema_rejects_and_names(values: Object, named: str) -> None:
    with pytest.raises(helm_python.HelmValuesError) as refusal:
        render(values)
    assert named in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        (
            {"storage": {"accessModes": ["ReadOnlyMany"]}},
            "would stay empty. Set storage.dataSourceRef .* or storage.volumeName",
        ),
        (
            {"model": {"source": SOURCE, "refiner": "hf://o/r", "adapters": []}},
            "is in an image.*remove adapters, refiner, and put these parts into the image",
        ),
        (
            {
                "sharedPredictor": True,
                "models": [
                    {"name": "a", "source": SOURCE},
                    {"name": "b", "source": "hf://owner/name"},
                ],
            },
            "sharedPredictor: a predictor mounts one claim or one image. Build one image",
        ),
        (
            {
                "sharedPredictor": True,
                "models": [
                    {"name": "a", "source": SOURCE},
                    {"name": "b", "source": f"{SOURCE}-2"},
                ],
            },
            "sharedPredictor: a predictor mounts one claim or one image. Build one image",
        ),
    ],
    ids=str,
)
def test_the_templates_reject(values: Object, advice: str) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=advice):
        render(values)


@pytest.mark.parametrize("mode", [{}, STANDARD], ids=["Knative", "Standard"])
def test_the_chart_can_create_a_claim_that_the_predictor_may_write_its_cache_to(
    mode: Object,
) -> None:
    rendered = render({"predictor": mode | OWN_CACHE})
    own = rendered.named("PersistentVolumeClaim", "stable-diffusion-cache")
    container, volumes = rendered.predictor_container, rendered.predictor["volumes"]
    (mount,) = [one for one in container["volumeMounts"] if one["name"] == "cache"]
    (volume,) = [one for one in volumes if one["name"] == "cache"]

    assert own["spec"]["resources"]["requests"]["storage"] == "7Gi"
    assert own["spec"]["accessModes"] == ["ReadWriteMany"]
    assert "annotations" not in own["metadata"]
    assert volume["persistentVolumeClaim"] == {"claimName": "stable-diffusion-cache"}
    assert mount["mountPath"] == plain_env(container)["PREDICTOR_CACHE_DIR"]
    assert mount.get("readOnly", False) is False
    # A new claim belongs to root, so the kubelet must give it to the predictor's group.
    group = container["securityContext"]["runAsGroup"]
    assert rendered.predictor["securityContext"]["fsGroup"] == group
    assert_known_to_kubernetes(rendered)


def test_each_model_has_a_cache_of_its_own() -> None:
    models = [
        {"name": "a", "source": SOURCE, "predictor": {"cache": {"claimName": "kernels"}}},
        {"name": "b", "source": SOURCE},
    ]
    rendered = render({"models": models, "predictor": OWN_CACHE})
    names = [one["metadata"]["name"] for one in rendered.all_of("PersistentVolumeClaim")]
    assert names == ["stable-diffusion-b-cache"]
    first, second = rendered.predictors.values()
    assert "securityContext" not in first
    assert [one["persistentVolumeClaim"] for one in first["volumes"] if one["name"] == "cache"] == [
        {"claimName": "kernels"}
    ]
    assert second["securityContext"] == {"fsGroup": 65532}


def test_without_a_group_or_a_cache_the_pod_gets_none() -> None:
    no_group = render({"predictor": OWN_CACHE, "security": {"fsGroup": None}})
    assert "securityContext" not in no_group.predictor
    assert "securityContext" not in case("default").predictor
    standard = render({"predictor": STANDARD}).predictor["securityContext"]
    assert "fsGroup" not in standard
