"""``make images``: the commands that it runs, and what happens if one fails."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from hack import build_images
from hack.build_images import IMAGES, Build, commands, labels, main, prefix

ROOT = Path(__file__).resolve().parent.parent.parent
LOCAL = Build("docker", "1.2.3")
PUSHED = Build("docker", "1.2.3", "host/team", "linux/amd64,linux/arm64", is_pushed=True)


def command(name: str, build: Build = LOCAL) -> list[str]:
    """The only command for an image."""
    (found,) = commands(name, build)
    return found


def values(words: list[str], option: str) -> list[str]:
    """The values of an option that may be repeated."""
    return [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]


@pytest.mark.parametrize(
    ("name", "tag", "dockerfile"),
    [
        ("predictor", "stable-diffusion-predictor:1.2.3", "Dockerfile"),
        ("predictor-cpu", "stable-diffusion-predictor:1.2.3-cpu", "Dockerfile"),
        ("downloader", "stable-diffusion-downloader:1.2.3", "Dockerfile.downloader"),
        ("jobs", "stable-diffusion-jobs:1.2.3", "Dockerfile.jobs"),
    ],
)
def test_an_image_is_built_locally_by_default(name: str, tag: str, dockerfile: str) -> None:
    words = command(name)

    assert [*words[:2], words[-1]] == ["docker", "build", "."]
    assert values(words, "--tag") == [tag]
    assert values(words, "--file") == [dockerfile]
    # Docker's local store may keep neither attestations nor several platforms.
    assert not {"--push", "--sbom=true"} & set(words)
    assert values(words, "--platform") == []


@pytest.mark.parametrize("name", IMAGES)
def test_a_pushed_image_has_both_platforms_an_sbom_and_provenance(name: str) -> None:
    words = command(name, PUSHED)

    assert words[:3] == ["docker", "buildx", "build"]
    assert values(words, "--platform") == ["linux/amd64,linux/arm64"]
    assert {"--sbom=true", "--provenance=mode=max", "--push"} <= set(words)
    assert values(words, "--metadata-file") == [f"dist/{name}.json"]
    (tag,) = values(words, "--tag")
    assert tag.startswith("host/team/stable-diffusion-")


@pytest.mark.parametrize("tool", ["sudo docker", "/usr/bin/docker", "docker --context builder"])
def test_docker_may_have_options_of_its_own(tool: str) -> None:
    (words,) = commands("downloader", Build(tool, "1.2.3", "host/", "linux/arm64", True))

    assert words[: len(tool.split()) + 2] == [*tool.split(), "buildx", "build"]


@pytest.mark.parametrize("tool", ["buildah", "podman", "sudo buildah"])
def test_buildah_pushes_a_list_of_images_with_the_sbom_in_them(tool: str) -> None:
    build, push = commands("downloader", Build(tool, "1.2.3", "host/", "linux/arm64", True))
    reference = "host/stable-diffusion-downloader:1.2.3"

    assert build[: len(tool.split()) + 1] == [*tool.split(), "build"]
    assert values(build, "--manifest") == [reference]
    assert values(build, "--tag") == []
    assert values(build, "--sbom") == ["syft-spdx"]
    (path,) = values(build, "--sbom-image-output")
    assert path.startswith("/")
    assert push == [
        *(*tool.split(), "manifest", "push", "--all"),
        *(reference, f"docker://{reference}"),
    ]


@pytest.mark.parametrize("name", IMAGES)
def test_the_dockerfile_declares_every_build_argument(name: str) -> None:
    declared = re.findall(r"^ARG (\w+)", (ROOT / IMAGES[name].dockerfile).read_text(), re.MULTILINE)

    given = dict(one.split("=", 1) for one in values(command(name), "--build-arg"))
    assert given.keys() <= set(declared)
    assert given["VERSION"] == "1.2.3" + IMAGES[name].suffix
    if "LOCK" in given:
        assert (ROOT / given["LOCK"]).is_file()


def test_the_cpu_image_has_the_version_of_torch_of_the_gpu_image() -> None:
    given = dict(one.split("=", 1) for one in values(command("predictor-cpu"), "--build-arg"))

    lock = (ROOT / "requirements" / "predictor.lock").read_text("utf-8")
    assert given["TORCH"].removesuffix("+cpu") in re.findall(r"^torch==\S+", lock, re.MULTILINE)


def test_own_options_come_last_so_that_they_override() -> None:
    own = ("--build-arg=PIP_EXTRA_INDEX_URL=https://mirror.example.com/cpu",)
    words = command("predictor-cpu", Build("docker", "1.2.3", extra=own))

    indexes = [one for one in values(words, "--build-arg") if one.startswith("PIP_EXTRA_INDEX")]
    assert indexes[-1] == "PIP_EXTRA_INDEX_URL=https://mirror.example.com/cpu"
    assert len(indexes) == 2


def test_the_registry_may_end_with_a_slash_or_not() -> None:
    assert [prefix(one) for one in ("", "host/team", "host/team/")] == ["", *["host/team/"] * 2]


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_has_every_label_of_a_release(name: str) -> None:
    of_file = (ROOT / IMAGES[name].dockerfile).read_text("utf-8")
    own = re.findall(r"(org\.opencontainers\.image\.\w+)=", of_file)
    of_commit = [label.partition("=")[0] for label in labels("https://example.com/repository")]

    keys = ("title", "description", "version", "licenses", "revision", "created", "source")
    assert sorted(own + of_commit) == sorted(f"org.opencontainers.image.{key}" for key in keys)


def test_the_labels_name_the_commit_and_whether_files_differ_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_images, "ROOT", tmp_path)
    assert labels("") == ()  # as in an archive of the sources
    identity = ["-c", "user.name=Someone", "-c", "user.email=someone@example.com"]
    for arguments in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message=A"]):
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.strip()

    clean = dict(label.split("=", 1) for label in labels(""))
    (tmp_path / "file").touch()
    changed = dict(label.split("=", 1) for label in labels(""))

    assert clean["org.opencontainers.image.revision"] == head
    assert changed["org.opencontainers.image.revision"] == f"{head}-dirty"
    assert datetime.fromisoformat(clean["org.opencontainers.image.created"]).tzinfo


def test_make_images_prints_every_command_before_it_runs() -> None:
    done = subprocess.run(
        [
            *("make", "--silent", "images", f"PYTHON={sys.executable}", "IMAGE_TOOL=buildah"),
            *("REGISTRY=host/team/", "FLAGS=--dry-run --source=https://example.com/repository"),
            "BUILD_ARGS=--build-arg=BASE_IMAGE=host/python:3.11",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )

    printed = [shlex.split(line) for line in done.stdout.splitlines()]
    assert [words[:2] for words in printed] == [["buildah", "build"]] * 3
    version = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert [values(words, "--tag") for words in printed] == [
        [f"host/team/stable-diffusion-predictor:{version[0]}"],
        [f"host/team/stable-diffusion-downloader:{version[0]}"],
        [f"host/team/stable-diffusion-jobs:{version[0]}"],
    ]
    for words in printed:
        assert "BASE_IMAGE=host/python:3.11" in values(words, "--build-arg")
        assert "org.opencontainers.image.source=https://example.com/repository" in values(
            words, "--label"
        )


def test_the_first_failure_ends_the_build(tmp_path: Path) -> None:
    tool = tmp_path / "docker"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexit 3\n')
    tool.chmod(0o755)

    assert main([f"--tool={tool}", "--version=1.2.3"]) == 3
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["build"]
    assert "stable-diffusion-predictor:1.2.3" in calls[0]


def test_a_missing_tool_and_a_push_without_a_registry_are_explained(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "docker"

    assert main([f"--tool={missing}", "--version=1.2.3"]) == 127
    assert capfd.readouterr().err == f"{missing} is not installed: set IMAGE_TOOL\n"
    with pytest.raises(SystemExit) as ended:
        main(["--version=1.2.3", "--push"])
    assert ended.value.code == 2
    assert "--push requires --registry" in capfd.readouterr().err
