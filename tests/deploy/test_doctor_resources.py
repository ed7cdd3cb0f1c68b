"""``doctor``: what KServe's webhook fills into our containers, from the cluster's ConfigMap."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy import shapes
from tests.deploy.conftest import Deployment

Object = dict[str, Any]
# The defaults of a stock KServe.
STOCK = {"cpuLimit": "1", "memoryLimit": "2Gi", "cpuRequest": "1", "memoryRequest": "2Gi"}
FILE = "03-inference-service.yaml"


def configure(deployment: Deployment, resource: Object | str) -> None:
    """Write the webhook's defaults into the cluster's ConfigMap; write a string unchanged."""
    text = resource if isinstance(resource, str) else json.dumps({"resource": resource})
    deployment.api.put(
        shapes.config_map("inferenceservice-config", "kserve", {"inferenceService": text})
    )


def deploy_with(deployment: Deployment, tmp_path: Path, resources: Object) -> None:
    """Deploy the manifests with other resources of the predictor."""
    folder = tmp_path / "changed"
    shutil.copytree(deployment.manifests, folder)
    item = yaml.safe_load((folder / FILE).read_text("utf-8"))
    item["spec"]["predictor"]["containers"][0]["resources"] = resources
    (folder / FILE).write_text(yaml.safe_dump(item), "utf-8")
    deployment.manifests = folder


def test_the_manifests_leave_nothing_to_fill_in(deployment: Deployment) -> None:
    configure(deployment, STOCK)

    done = deployment.run("doctor")

    assert done.code == 0
    assert "ok    KServe has no resource to fill in" in done.out


@pytest.mark.parametrize(
    ("resources", "level", "expected"),
    [
        (
            {"requests": {"cpu": "2", "memory": "2Gi"}, "limits": {"memory": "4Gi"}},
            "fail",
            "requests.cpu 2 exceeds limits.cpu 1 (KServe's default)",
        ),
        (
            {"limits": {"cpu": "500m", "memory": "4Gi"}},
            "fail",
            "requests.cpu 1 (KServe's default) exceeds limits.cpu 500m",
        ),
        (
            {"requests": {"cpu": 2, "memory": "1Gi"}, "limits": {"cpu": 1, "memory": "2Gi"}},
            "fail",
            "requests.cpu 2 exceeds limits.cpu 1\n",
        ),
        (
            {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}},
            "warn",
            "KServe fills in limits.cpu 1\n",
        ),
        (
            {},
            "warn",
            "fills in limits.cpu 1, limits.memory 2Gi, requests.cpu 1, requests.memory 2Gi",
        ),
    ],
    ids=str,
)
def test_what_kserve_fills_in_is_checked(
    deployment: Deployment, tmp_path: Path, resources: Object, level: str, expected: str
) -> None:
    configure(deployment, STOCK)
    deploy_with(deployment, tmp_path, resources)

    done = deployment.run("doctor")

    assert done.code == (5 if level == "fail" else 0)
    assert expected in done.out
    (line,) = [line for line in done.out.splitlines() if expected.strip() in line]
    assert line.startswith(f"{level}  inferenceservice/stable-diffusion: ")


def test_the_advice_names_the_container_and_the_value(
    deployment: Deployment, tmp_path: Path
) -> None:
    configure(deployment, STOCK)
    deploy_with(deployment, tmp_path, {"requests": {"cpu": "2"}})

    out = deployment.run("doctor").out

    assert "Set both, the limit to the request at least" in out
    assert "predictor.resources, container kserve-container" in out


@pytest.mark.parametrize("resource", [{}, dict.fromkeys(STOCK, "")], ids=str)
def test_a_kserve_that_fills_in_nothing(
    deployment: Deployment, tmp_path: Path, resource: Object
) -> None:
    configure(deployment, resource)
    deploy_with(deployment, tmp_path, {"requests": {"cpu": "2"}})

    assert "ok    KServe has no resource to fill in" in deployment.run("doctor").out


def test_a_config_map_that_is_not_json_is_a_warning(deployment: Deployment) -> None:
    configure(deployment, "{resource: }")

    done = deployment.run("doctor")

    assert done.code == 0
    assert "the key inferenceService of inferenceservice-config is not valid JSON" in done.out
