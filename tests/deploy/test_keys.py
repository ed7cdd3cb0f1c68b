"""Keys: ``key`` creates one that the predictor accepts, and ``up`` and ``predict`` send one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from predictor.access.api_keys import parse
from tests.deploy.conftest import ROOT, Deployment

UNAUTHORIZED = (401, "application/json", b'{"error": "the key is not valid"}')


def run_key(*arguments: str) -> tuple[str, str]:
    """The key and the line that ``key`` prints."""
    command = [sys.executable, "-m", "deploy", "key", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    key, line = re.findall(r"^  (.*)$", done.stdout, re.MULTILINE)
    return key, line


def test_the_predictor_accepts_the_line(tmp_path: Path) -> None:
    lines = [run_key("alice"), run_key("ops", "--admin")]
    keys = parse("\n".join(line for _, line in lines).encode())

    assert [(key.name, key.is_admin) for key in keys] == [("alice", False), ("ops", True)]
    assert all(len(key) > 40 and key not in line for key, line in lines)
    assert lines[0][0] != lines[1][0]


@pytest.fixture
def closed(deployment: Deployment, tmp_path: Path) -> Deployment:
    """A folder whose predictor requires a key, and the Secret with its hashes."""
    folder = tmp_path / "closed"
    folder.mkdir()
    for path in deployment.manifests.glob("*.yaml"):
        items = list(yaml.safe_load_all(path.read_text("utf-8")))
        for item in items:
            if item["kind"] == "InferenceService":
                spec = item["spec"]["predictor"]
                value = "/etc/predictor-keys/api-keys"
                spec["containers"][0]["env"].append(
                    {"name": "PREDICTOR_API_KEYS_FILE", "value": value}
                )
                items_of = [{"key": "hashes", "path": "api-keys"}]
                secret = {"secretName": "team-keys", "items": items_of}
                spec["volumes"].append({"name": "api-keys", "secret": secret})
        (folder / path.name).write_text(yaml.safe_dump_all(items), "utf-8")
    deployment.manifests = folder
    return deployment


def put_secret(deployment: Deployment, key: str = "hashes") -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "data": {key: "aGFzaA=="}}
    deployment.api.put({**secret, "metadata": {"name": "team-keys", "namespace": "default"}})


@pytest.mark.parametrize(
    ("key", "reason"), [(None, "does not exist"), ("other", "has no key 'hashes'")]
)
def test_the_doctor_misses_the_secret_or_its_key(
    closed: Deployment, key: str | None, reason: str
) -> None:
    if key:
        put_secret(closed, key)

    done = closed.run("doctor")

    assert done.code == 5
    assert f"secret 'team-keys' {reason}" in done.out
    assert "--from-file=hashes=/dev/stdin" in done.out


def test_up_needs_a_key_before_it_changes_anything(closed: Deployment) -> None:
    put_secret(closed)

    done = closed.run("up")

    assert done.code == 2
    assert "stable-diffusion requires a key" in done.err
    assert "--api-key-file" in done.err
    assert closed.predictor.bodies == []
    assert "created" not in done.out


def test_up_and_predict_send_the_key_and_print_its_file(closed: Deployment, tmp_path: Path) -> None:
    put_secret(closed)
    file = tmp_path / "my key"
    file.write_text("sk-0123\n", "utf-8")

    runs = [
        closed.run("up", "--api-key-file", file),
        closed.run(
            *("predict", "a fish", "--folder", closed.manifests, "--api-key-file", file),
            folder=False,
        ),
    ]

    assert [run.code for run in runs] == [0, 0]
    assert closed.predictor.authorizations == ["Bearer sk-0123"] * 2
    for run in runs:
        assert f"Authorization: Bearer $(cat '{file}')" in run.out
        assert "sk-0123" not in run.out


def test_without_a_key_file_no_header_is_sent(deployment: Deployment) -> None:
    assert deployment.run("up").code == 0
    assert deployment.predictor.authorizations == [None]


@pytest.mark.parametrize("content", [None, "", "two words", "sch\u00f6n"])
def test_a_bad_key_file_is_a_usage_error(
    closed: Deployment, tmp_path: Path, content: str | None
) -> None:
    put_secret(closed)
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content, "utf-8")

    done = closed.run("up", "--api-key-file", file)

    assert done.code == 2
    assert "--api-key-file" in done.err
    assert "created" not in done.out


def test_a_rejected_key_is_explained(deployment: Deployment) -> None:
    deployment.run("up")
    deployment.predictor.answer = UNAUTHORIZED

    done = deployment.run("predict", "a fish", "--folder", deployment.manifests, folder=False)

    assert done.code == 11
    assert "401: the key is not valid" in done.err
    assert "--api-key-file" in done.err
