"""The workflows for GitHub, which do not run here: what they may do, and what they run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.build_images import DIST, IMAGES
from tests.chart.rendering import UniqueKeyLoader

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / ".github" / "workflows"
PATHS = sorted(FOLDER.glob("*.yaml"))
# Actions by commit: a tag can be moved. The comment is for people and for tools that update both.
PINNED = re.compile(r"^ +- uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
# YAML 1.1 reads the key `on` as true.
ON = True

Workflow = dict[Any, Any]


def parsed(path: Path) -> Workflow:
    workflow: Workflow = yaml.load(path.read_text("utf-8"), UniqueKeyLoader)
    return workflow


RELEASE = parsed(FOLDER / "release.yaml")


def steps(workflow: Workflow) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job["steps"]


def scripts(job: dict[str, Any]) -> str:
    return "\n".join(step["run"] for step in job["steps"] if "run" in step)


def commands(job: dict[str, Any]) -> list[list[str]]:
    """The commands of a job, with continuation lines joined."""
    lines = scripts(job).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_a_job_has_only_the_permissions_that_it_needs(path: Path) -> None:
    workflow = parsed(path)

    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert set(job["permissions"].values()) <= {"read", "write"}, name
        assert job["permissions"]["contents"] == "read", name
        signs = "cosign sign" in scripts(job)
        expected = {"contents", "packages", "id-token"} if signs else {"contents"}
        assert set(job["permissions"]) == expected, name


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_with_their_version(path: Path) -> None:
    lines = [line for line in path.read_text("utf-8").splitlines() if "uses:" in line]

    assert lines
    assert [line for line in lines if not PINNED.match(line)] == []


def test_all_workflows_use_the_same_commit_of_an_action() -> None:
    used = {step["uses"] for path in PATHS for step in steps(parsed(path)) if "uses" in step}

    assert len(used) == len({name.partition("@")[0] for name in used})


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_no_script_contains_an_expression_and_no_token_stays_on_disk(path: Path) -> None:
    for step in steps(parsed(path)):
        # GitHub would insert the value into the script before the shell reads it.
        assert "${{" not in step.get("run", "")
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_a_job_has_a_time_limit_and_waits_only_for_jobs_that_exist(path: Path) -> None:
    jobs = parsed(path)["jobs"]

    for job in jobs.values():
        assert 0 < job["timeout-minutes"] <= 360
        assert {job["needs"]} <= jobs.keys() if "needs" in job else True


def test_only_a_tag_of_a_version_starts_a_release() -> None:
    assert RELEASE[ON] == {"push": {"tags": ["v*"]}}
    # A pipe fails if its first command does.
    assert RELEASE["defaults"]["run"]["shell"] == "bash"


def test_nothing_is_published_before_the_version_is_verified() -> None:
    jobs = RELEASE["jobs"]

    assert commands(jobs["check"]) == [
        ["python3", "hack/release.py", "--verify", "$GITHUB_REF_NAME"]
    ]
    assert {name: job.get("needs") for name, job in jobs.items()} == {
        "check": None,
        "images": "check",
        "chart": "images",
    }


def test_every_image_is_pushed_and_signed_by_its_digest() -> None:
    job = RELEASE["jobs"]["images"]
    build, digest, sign = commands(job)[-3:]

    assert set(job["strategy"]["matrix"]["image"]) == IMAGES.keys()
    assert build[:2] == ["make", "images"]
    flags = dict(word.split("=", 1) for word in build[2:])["FLAGS"].split()
    assert {"--image=$IMAGE", "--push"} <= set(flags)
    assert f"{DIST}/$IMAGE.json" in digest[0]  # the file of `--metadata-file`
    assert sign[:3] == ["cosign", "sign", "--yes"]
    assert sign[-1] == "ghcr.io/${GITHUB_REPOSITORY,,}/stable-diffusion-${IMAGE%-cpu}@$digest"
    assert {image.name for image in IMAGES.values()} == {
        f"stable-diffusion-{name.removesuffix('-cpu')}" for name in IMAGES
    }


def test_the_chart_names_the_images_that_were_pushed_and_is_signed_by_its_digest() -> None:
    jobs = RELEASE["jobs"]
    (package,) = [words for words in commands(jobs["chart"]) if "hack/package_chart.py" in words]
    (build,) = [words for words in commands(jobs["images"]) if words[:2] == ["make", "images"]]
    (push,) = [words for words in commands(jobs["chart"]) if words[:2] == ["helm", "push"]]
    (sign,) = [words for words in commands(jobs["chart"]) if words[:2] == ["cosign", "sign"]]

    (registry,) = [word.partition("=")[2] for word in package if word.startswith("--registry=")]
    assert f"REGISTRY={registry}" in build
    assert push[2] == f"{DIST}/stable-diffusion-*.tgz"
    charts = [words[0] for words in commands(jobs["chart"]) if words[0].startswith("charts=")]
    assert charts == [f"charts={registry}/charts"]
    assert sign[-1].startswith("$charts/stable-diffusion@${digest:?")


def test_the_packages_of_the_chart_job_are_in_the_lock_file() -> None:
    (expression,) = re.findall(
        r"grep -E '(.+?)' requirements/dev.lock", scripts(RELEASE["jobs"]["chart"])
    )
    lock = (ROOT / "requirements" / "dev.lock").read_text("utf-8")

    found = re.findall(expression, lock, re.MULTILINE)
    assert sorted(found) == ["helm-python-sdk", "pyyaml"]


def test_ci_runs_the_tests_and_the_checks() -> None:
    workflow = parsed(FOLDER / "ci.yaml")

    run = [step["run"] for step in steps(workflow) if step.get("run", "").startswith("make")]
    assert run == ["make test", "make check"]
    assert workflow[ON].keys() == {"push", "pull_request"}
