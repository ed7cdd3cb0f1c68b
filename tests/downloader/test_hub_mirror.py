"""Hubs that differ from huggingface.co: mirrors, and their reasons for a refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelstore import MARKER_NAME
from tests.downloader.hub_faults import Fault
from tests.downloader.hub_server import Hub
from tests.downloader.job import REPOSITORY, Job
from tests.downloader.pipeline_files import published_paths, whole_repository
from tests.downloader.volume import file_names

UNET = "unet/diffusion_pytorch_model.fp16.safetensors"


@pytest.mark.parametrize("mirrors", ["names", "blobs"])
def test_a_mirror_without_trees_is_listed_by_its_siblings(
    hub: Hub, job: Job, target: Path, mirrors: str
) -> None:
    files = whole_repository()
    hub.repository(REPOSITORY).commit(files)
    hub.mirrors = mirrors

    result = job.run()

    assert result.returncode == 0, result.stderr
    assert file_names(target / "sd") == published_paths() | {MARKER_NAME}
    assert all((target / "sd" / path).read_bytes() == files[path] for path in published_paths())
    assert hub.api_calls == ["revision", "tree", "revision"]
    # A mirror may fetch a file from its own source for each request, even for a HEAD.
    heads = [one.path for one in hub.requests if one.method == "HEAD"]
    assert [path for path in heads if path.endswith((".bin", ".ckpt", ".onnx", ".png"))] == []
    assert (heads == []) == (mirrors == "blobs")
    assert "already published" in job.run().stdout


@pytest.mark.parametrize("mirrors", ["names", "blobs"])
def test_the_bytes_of_a_mirror_without_trees_are_verified(
    hub: Hub, job: Job, target: Path, mirrors: str
) -> None:
    hub.repository(REPOSITORY).commit(whole_repository())
    hub.mirrors = mirrors
    hub.faults.corrupt.add(UNET)

    result = job.run()

    assert result.returncode == 6
    assert f"{UNET} has the sha256 digest" in result.stderr.splitlines()[-1]
    assert not (target / "sd").exists()


def test_a_missing_commit_is_not_looked_up_twice(hub: Hub, job: Job) -> None:
    hub.repository(REPOSITORY).commit(whole_repository())

    result = job.run("--source", f"hf://{REPOSITORY}@{'a' * 40}")

    assert result.returncode == 4
    assert hub.api_calls == ["tree"]


@pytest.mark.parametrize(
    ("call", "document"),
    [
        ("revision", {"id": REPOSITORY}),
        ("revision", []),
        ("tree", {"errors": [{"status": 404}]}),
        ("tree", [{"type": "file"}]),
    ],
    ids=["no commit", "a list", "an object", "no fields"],
)
def test_an_answer_that_is_not_that_of_a_hub_is_one_sentence(
    hub: Hub, job: Job, call: str, document: object
) -> None:
    hub.repository(REPOSITORY).commit(whole_repository())
    hub.faults.once[call] = [Fault("status", status=200, body=json.dumps(document).encode())]

    result = job.run()

    assert result.returncode == 7
    assert result.stderr.splitlines()[-1].endswith("127.0.0.1 does not answer like a hub")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("status", "code"), [(400, 7), (401, 3), (403, 3), (404, 4), (500, 7)], ids=str
)
def test_the_reason_of_the_hub_is_passed_on(hub: Hub, job: Job, status: int, code: int) -> None:
    hub.faults.status = status
    hub.reason = "Blocked by policy 7: ask the security team. Your token is hf_good."

    result = job.run(DOWNLOADER_MAX_RETRIES="0", HF_TOKEN="hf_good")

    assert result.returncode == code
    reason = "(the hub says: Blocked by policy 7: ask the security team. Your token is ***.)"
    assert result.stderr.splitlines()[-1].endswith(reason)


def test_the_reason_for_a_gate_is_passed_on(hub: Hub, job: Job) -> None:
    repository = hub.repository(REPOSITORY)
    repository.commit(whole_repository())
    repository.is_gated = True
    hub.reason = "Your request to access this model is awaiting a review by its authors."

    result = job.run()

    assert result.returncode == 3
    sentence = result.stderr.splitlines()[-1]
    assert "is gated: accept its terms at" in sentence
    assert sentence.endswith(f"(the hub says: {hub.reason})")
