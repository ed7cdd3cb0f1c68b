"""``up``: from a folder to a picture, on the first run and later ones, and its failures."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image

from deploy.cluster import FIELD_MANAGER
from deploy.objects import load_objects
from tests.deploy import shapes
from tests.deploy.conftest import PROGRESS, Deployment, downloading


def test_up_ends_with_a_picture_and_an_equivalent_curl_command(
    deployment: Deployment,
) -> None:
    done = deployment.run("up")

    assert (done.code, done.err) == (0, "")
    with Image.open(deployment.folder / "picture.png") as picture:
        assert picture.format == "PNG"
    (body,) = deployment.predictor.bodies
    assert body == {"prompt": "a lighthouse at dusk, oil painting"}
    curl = done.out.strip().splitlines()[-1]
    (deployment.folder / "picture.png").unlink()
    subprocess.run(shlex.split(curl), check=True, capture_output=True, timeout=30)
    assert (deployment.folder / "picture.png").stat().st_size > 0
    assert deployment.predictor.bodies == [body, body]


def test_up_applies_in_order_and_the_service_only_after_the_download(
    deployment: Deployment,
) -> None:
    deployment.run("up")

    applied = [path.split("/")[-2] for path in deployment.api.requested("PATCH")]
    needed = [applied.index(kind) for kind in ("secrets", "persistentvolumeclaims", "jobs")]
    assert needed == sorted(needed)
    assert applied[-1] == "inferenceservices"
    asked = [
        (method, path) for method, path, query in deployment.api.requests if "dryRun" not in query
    ]
    log = next(i for i, (_, path) in enumerate(asked) if path.endswith("/log"))
    service = next(i for i, one in enumerate(asked) if one[0] == "PATCH" and "inferences" in one[1])
    assert log < service


def test_a_changed_service_also_waits_for_the_changed_download(
    deployment: Deployment, tmp_path: Path
) -> None:
    deployment.run("up")
    folder = tmp_path / "changed"
    folder.mkdir()
    for source in deployment.manifests.glob("*.yaml"):
        text = source.read_text().replace("stable-diffusion-v1-5@main", "stable-diffusion-v1-5@abc")
        (folder / source.name).write_text(text.replace("maxReplicas: 1", "maxReplicas: 2"))
    deployment.manifests = folder
    deployment.api.requests.clear()

    done = deployment.run("up")

    assert done.code == 0
    assert f"inferenceservice/{shapes.SERVICE} configured" in done.out
    assert done.out.index(f"job/{shapes.JOB} is complete") < done.out.index(
        f"inferenceservice/{shapes.SERVICE} configured"
    )


def test_a_folder_without_a_download_is_applied_at_once(
    deployment: Deployment, tmp_path: Path
) -> None:
    folder = tmp_path / "service"
    folder.mkdir()
    shutil.copy(deployment.manifests / "03-inference-service.yaml", folder)
    deployment.api.put(shapes.claim("Bound"))
    deployment.api.put(shapes.service_account("predictor"))
    deployment.manifests = folder

    done = deployment.run("up")

    assert done.code == 0
    assert [path.split("/")[-2] for path in deployment.api.requested("PATCH")] == [
        "inferenceservices"
    ]


def test_the_download_prints_plain_lines_without_a_terminal(
    deployment: Deployment,
) -> None:
    done = deployment.run("up")

    assert "1.20 of 2.74 GB (43 %), 85.3 MB/s, 18 s left" in done.out
    assert "\x1b" not in done.out


def test_the_download_shows_a_progress_bar_on_a_terminal(deployment: Deployment) -> None:
    done = deployment.run("up", terminal=True)

    assert done.code == 0
    assert "━" in done.out
    assert "1.20 of 2.74 GB (43 %)" not in done.out


def test_a_log_that_is_cut_resumes_where_it_was(deployment: Deployment) -> None:
    reads = []

    def log() -> Iterator[str]:
        reads.append(1)
        if len(reads) > 1:
            yield from downloading(deployment.api)
            return
        yield from PROGRESS[:2]
        raise ConnectionResetError

    deployment.api.controllers["Job"] = lambda api, _: (
        api.logs.update({shapes.JOB_POD: log}),
        api.put(shapes.job_pod()),
    )[0]

    done = deployment.run("up")

    assert done.code == 0
    assert len(reads) > 1
    assert [done.out.count(line) for line in PROGRESS] == [1, 1, 1]


def test_up_again_changes_nothing(deployment: Deployment) -> None:
    deployment.run("up")
    before = {
        key: item["metadata"]["resourceVersion"] for key, item in deployment.api.objects.items()
    }

    done = deployment.run("up")

    after = {
        key: item["metadata"]["resourceVersion"] for key, item in deployment.api.objects.items()
    }
    assert done.code == 0
    assert after == before
    assert done.out.count("unchanged") == len(load_objects(deployment.manifests))


def test_every_write_is_a_server_side_apply_of_our_field_manager(deployment: Deployment) -> None:
    deployment.run("up")

    writes = [query for method, _, query in deployment.api.requests if method == "PATCH"]
    assert {query["fieldManager"] for query in writes} == {FIELD_MANAGER}
    assert not any("force" in query for query in writes)


def test_a_dry_run_changes_nothing_and_says_what_would_happen(deployment: Deployment) -> None:
    before = dict(deployment.api.objects)

    done = deployment.run("up", "--dry-run")

    assert done.code == 0
    assert deployment.api.objects == before
    assert deployment.api.requested("PATCH") == []
    assert f"inferenceservice/{shapes.SERVICE} created (dry run)" in done.out


def test_a_refused_object_is_reported_before_anything_is_applied(
    deployment: Deployment,
) -> None:
    deployment.api.refusals["InferenceService"] = (
        403,
        'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request: '
        "the InferenceService is invalid: minReplicas cannot be greater than maxReplicas",
    )

    done = deployment.run("up")

    assert done.code == 6
    assert "minReplicas cannot be greater" in done.err
    assert deployment.api.requested("PATCH") == []


def test_a_conflict_names_the_field_and_its_owner_and_can_be_forced(deployment: Deployment) -> None:
    deployment.run("up")
    key = ("InferenceService", "default", shapes.SERVICE)
    path = ("spec", "predictor", "maxReplicas")
    deployment.api.objects[key]["spec"]["predictor"]["maxReplicas"] = 7
    deployment.api.owners[key][path] = "helm"

    refused = deployment.run("up")
    forced = deployment.run("up", "--force-conflicts")

    assert refused.code == 7
    assert "'helm' has set .spec.predictor.maxReplicas" in refused.err
    assert "--force-conflicts" in refused.err
    assert forced.code == 0
    assert deployment.api.objects[key]["spec"]["predictor"]["maxReplicas"] == 1


def test_a_changed_job_is_replaced(deployment: Deployment, tmp_path: Path) -> None:
    deployment.run("up")
    folder = tmp_path / "changed"
    folder.mkdir()
    for source in deployment.manifests.glob("*.yaml"):
        text = source.read_text().replace("stable-diffusion-v1-5@main", "stable-diffusion-v1-5@abc")
        (folder / source.name).write_text(text)
    deployment.manifests = folder

    done = deployment.run("up")

    assert done.code == 0
    assert f"job/{shapes.JOB} replaced" in done.out
    job = deployment.api.find("Job", shapes.JOB)
    assert job
    assert "v1-5@abc" in yaml.safe_dump(job)


def test_a_failed_job_is_retried(deployment: Deployment) -> None:
    fine = deployment.api.controllers.pop("Job")
    deployment.api.controllers["Job"] = lambda api, _: (
        api.put(shapes.job_pod(5, "the target needs 2 bytes more")),
        api.update("Job", shapes.JOB, status=shapes.failed_job(5)["status"]),
    )[0]
    first = deployment.run("up")
    deployment.api.controllers["Job"] = fine

    second = deployment.run("up")

    assert (first.code, second.code) == (8, 0)
    assert "the volume is full" in first.err
    assert "replaced" in second.out


def test_the_status_of_the_former_spec_does_not_count_as_ready(
    deployment: Deployment, tmp_path: Path
) -> None:
    deployment.run("up")
    text = (deployment.manifests / "03-inference-service.yaml").read_text()
    changed = tmp_path / "changed.yaml"
    changed.write_text(text.replace("maxReplicas: 1", "maxReplicas: 2"))
    deployment.manifests = changed
    rolling_out = {
        **shapes.ready_status(),
        "components": {"predictor": {"latestCreatedRevision": "b", "latestReadyRevision": "a"}},
    }
    noticed = threading.Timer(
        0.5,
        deployment.api.update,
        ["InferenceService", shapes.SERVICE],
        {"status": rolling_out},
    )
    deployment.api.controllers["InferenceService"] = lambda *_: noticed.start()

    done = deployment.run("up", "--timeout", "2s")

    assert done.code == 10
    assert deployment.predictor.bodies == [{"prompt": "a lighthouse at dusk, oil painting"}]


def test_the_time_limit_says_what_it_waited_for(deployment: Deployment) -> None:
    deployment.api.controllers["InferenceService"] = lambda api, _: (
        api.put(shapes.pod(scheduled="0/3 nodes are available: 3 Insufficient nvidia.com/gpu."))
        and None
    )

    done = deployment.run("up", "--timeout", "2s")

    assert done.code == 10
    assert "3 Insufficient nvidia.com/gpu" in done.err
    assert "device plugin" in done.out
    assert done.out.count("No node can take pod") == 1


def test_an_answer_without_a_picture_is_quoted(
    deployment: Deployment,
) -> None:
    deployment.predictor.answer = (503, "application/json", b'{"error": "the model is loading"}')

    done = deployment.run("up")

    assert done.code == 11
    assert "answered 503: the model is loading" in done.err


def test_an_address_that_does_not_answer_is_named(
    deployment: Deployment,
) -> None:
    deployment.run("up")
    address = deployment.predictor.address
    deployment.predictor.stop()

    done = deployment.run("predict", "a fish", "--folder", deployment.manifests, folder=False)

    assert done.code == 11
    assert f"{address}/v1/models" in done.err


@pytest.mark.parametrize("verb", ["up", "doctor", "status"])
def test_a_missing_folder_is_a_usage_error(deployment: Deployment, verb: str) -> None:
    deployment.manifests = deployment.folder / "nowhere"

    done = deployment.run(verb)

    assert done.code == 2
    assert "nowhere does not exist" in done.err
    assert deployment.api.requests == []


def test_a_missing_context(deployment: Deployment) -> None:
    done = deployment.run("status", "--context", "nowhere")

    assert done.code == 3
    assert "nowhere" in done.err


def test_credentials_that_the_cluster_does_not_know(deployment: Deployment) -> None:
    deployment.api.token = "another"

    done = deployment.run("status")

    assert done.code == 3
    assert "does not accept these credentials: Unauthorized" in done.err
    assert "a-token-of-the-test" not in done.out + done.err


def test_a_cluster_that_does_not_answer_has_its_own_exit_code(deployment: Deployment) -> None:
    deployment.api.stop()

    done = deployment.run("status")

    assert done.code == 3
    assert "the cluster does not answer" in done.err
