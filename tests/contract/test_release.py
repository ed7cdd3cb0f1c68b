"""``make release``, in small repositories of git."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hack import release

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = {
    "pyproject.toml": '[project]\nname = "example"\nversion = "1.2.0"\n',
    "helm/Chart.yaml": "name: example\nversion: 1.2.0\nappVersion: 1.2.0\n",
    "Dockerfile": "FROM scratch\nARG VERSION=1.2.0\n",
    "manifests/service.yaml": "image: stable-diffusion-predictor:1.2.0\n",
    "examples/cpu/kustomization.yaml": "images:\n  - newTag: 1.2.0-cpu\n",
    "docs/gpus.md": "--tag stable-diffusion-predictor:1.2.0-rocm\n    tag: 1.2.0-rocm\n",
    "docs/install.md": "helm install a stable-diffusion-1.2.0.tgz\nVERSION=1.2.0\n",
    "CHANGELOG.md": "# Changelog\n\n## Unreleased\n\n## 1.2.0 - 2026-01-02\n\n"
    "### Added\n\n- A thing.\n",
}
IDENTITY = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "Someone"), ("EMAIL", "someone@example.com"))
}


def git(folder: Path, *arguments: str) -> str:
    # No configuration of the machine, such as hooks or signatures.
    environment = os.environ | IDENTITY | {"GIT_CONFIG_GLOBAL": os.devnull}
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Change")


def released(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The result of the script in a repository."""
    return subprocess.run(
        [sys.executable, "-B", "hack/release.py", *arguments],
        cwd=folder,
        env=os.environ | IDENTITY | {"GIT_CONFIG_GLOBAL": os.devnull},
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository that can be released."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "hack").mkdir()
    for name in ("release.py", "changelog.py"):
        shutil.copy(ROOT / "hack" / name, tmp_path / "hack")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def test_a_commit_whose_files_agree_is_tagged(repository: Path) -> None:
    done = released(repository)

    assert (done.returncode, done.stderr) == (0, "")
    assert "git push origin v1.2.0" in done.stdout
    assert git(repository, "cat-file", "-t", "v1.2.0") == "tag"  # annotated
    assert git(repository, "rev-parse", "v1.2.0^{commit}") == git(repository, "rev-parse", "HEAD")


def test_a_version_is_tagged_only_once(repository: Path) -> None:
    released(repository)

    done = released(repository)

    commit_id = git(repository, "rev-parse", "--short", "HEAD")
    assert done.returncode == 1
    assert done.stderr == (
        f"The tag v1.2.0 already exists, on {commit_id}: increase the version.\n"
    )


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        (
            "helm/Chart.yaml",
            "appVersion: 1.2.0",
            "appVersion: 1.1.0",
            "helm/Chart.yaml:3 has 1.1.0, but pyproject.toml has 1.2.0.",
        ),
        (
            "helm/Chart.yaml",
            "\nversion: 1.2.0",
            '\nversion: "1.2.1"',
            "helm/Chart.yaml:2 has 1.2.1, but pyproject.toml has 1.2.0.",
        ),
        (
            "Dockerfile",
            "1.2.0",
            "1.3.0",
            "Dockerfile:2 has 1.3.0, but pyproject.toml has 1.2.0.",
        ),
        (
            "manifests/service.yaml",
            "1.2.0",
            "1.2.0-rc.1",
            "manifests/service.yaml:1 has 1.2.0-rc.1, but pyproject.toml has 1.2.0.",
        ),
        (
            "examples/cpu/kustomization.yaml",
            "1.2.0-cpu",
            "1.1.0-cpu",
            "examples/cpu/kustomization.yaml:2 has 1.1.0-cpu, but pyproject.toml has 1.2.0.",
        ),
        (
            "docs/gpus.md",
            "predictor:1.2.0-rocm",
            "predictor:1.1.0-rocm",
            "docs/gpus.md:1 has 1.1.0-rocm, but pyproject.toml has 1.2.0.",
        ),
        (
            "docs/gpus.md",
            "tag: 1.2.0",
            "tag: 1.1.0",
            "docs/gpus.md:2 has 1.1.0-rocm, but pyproject.toml has 1.2.0.",
        ),
        (
            "docs/install.md",
            "1.2.0.tgz",
            "1.1.0.tgz",
            "docs/install.md:1 has 1.1.0, but pyproject.toml has 1.2.0.",
        ),
        (
            "docs/install.md",
            "VERSION=1.2.0",
            "VERSION=1.1.0",
            "docs/install.md:2 has 1.1.0, but pyproject.toml has 1.2.0.",
        ),
        (
            "CHANGELOG.md",
            "## 1.2.0 - 2026-01-02",
            "## 1.1.0 - 2026-01-02",
            "CHANGELOG.md has no section for 1.2.0: rename Unreleased to `## 1.2.0 - YYYY-MM-DD`.",
        ),
        (
            "CHANGELOG.md",
            " - 2026-01-02",
            "",
            "The section for 1.2.0 in CHANGELOG.md has no date: write `## 1.2.0 - YYYY-MM-DD`.",
        ),
        (
            "CHANGELOG.md",
            "- A thing.",
            "",
            "The section for 1.2.0 in CHANGELOG.md has no entries.",
        ),
        (
            "CHANGELOG.md",
            "## Unreleased\n",
            "## Unreleased\n\n### Fixed\n\n- A late change.\n",
            "Unreleased in CHANGELOG.md still has entries: move them to `## 1.2.0 - YYYY-MM-DD`.",
        ),
    ],
)
def test_a_commit_whose_files_disagree_is_refused(
    repository: Path, file: str, old: str, new: str, sentence: str
) -> None:
    path = repository / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    commit(repository)

    done = released(repository)

    assert (done.returncode, done.stderr) == (1, sentence + "\n")
    assert git(repository, "tag") == ""
    assert released(repository, "--verify", "v1.2.0").stderr == sentence + "\n"


def test_a_version_that_helm_cannot_read_is_refused(repository: Path) -> None:
    for path in (path for path in repository.rglob("*") if path.is_file()):
        if ".git" not in path.parts:
            path.write_text(path.read_text().replace("1.2.0", "1.2"))
    commit(repository)

    done = released(repository)

    assert done.stderr == "'1.2' in pyproject.toml is not a version such as 1.2.3 or 1.2.3-rc.1.\n"


def test_changes_that_are_not_committed_are_refused_by_name(repository: Path) -> None:
    (repository / "Dockerfile").write_text("FROM scratch\nARG VERSION=1.2.0\n\n")
    (repository / "new.py").touch()

    done = released(repository)

    assert done.returncode == 1
    assert done.stderr == (
        "The working tree has changes that are not committed: Dockerfile, new.py.\n"
    )


def test_every_reason_is_printed_at_once(repository: Path) -> None:
    (repository / "Dockerfile").write_text("FROM scratch\nARG VERSION=1.1.0\n")
    (repository / "CHANGELOG.md").write_text("# Changelog\n")

    done = released(repository)

    assert len(done.stderr.splitlines()) == 3


def test_the_release_workflow_accepts_the_tag_of_the_version_only(repository: Path) -> None:
    assert released(repository).returncode == 0

    assert released(repository, "--verify", "v1.2.0").returncode == 0
    other = released(repository, "--verify", "v1.3.0")
    assert (other.returncode, other.stderr) == (
        1,
        "The tag is v1.3.0, but pyproject.toml has 1.2.0.\n",
    )


def test_the_files_of_this_project_agree_on_the_version() -> None:
    assert list(release.problems_of_files(release.version())) == []
    # With another version, every file is named: no pattern is out of date.
    named = {problem.partition(":")[0] for problem in release.problems_of_files("99.0.0")}
    assert named >= {
        *("helm/Chart.yaml", "Dockerfile", "Dockerfile.downloader", "README.md"),
        *("predictor/edge/openapi.py", "examples/cpu-demo/kustomization.yaml"),
        "jobs/api/openapi.py",
        *("manifests/02-model-download-job.yaml", "manifests/03-inference-service.yaml"),
        *("examples/cpu-demo/values.yaml", "helm/ci/cpu-values.yaml"),
        *("docs/air-gap.md", "docs/gpus.md", "docs/install.md", "docs/operations.md"),
        *("examples/cpu-demo/README.md", "examples/volumes/loader.yaml"),
    }
    counts = [re.compile(expression).groups for _, expression in release.PLACES]
    assert counts == [1] * len(counts)


@pytest.mark.parametrize(
    ("version", "is_valid"),
    [
        *((one, True) for one in ("1.2.3", "1.2.3-rc.1", "1.2.3-0a", "1.2.3-x-y.0")),
        *((one, False) for one in ("1.2.3-rc..1", "1.2.3-rc.", "1.2.3-01", "1.02.3", "1.2.3+a")),
    ],
)
def test_only_semantic_versions_are_released(version: str, is_valid: bool) -> None:
    sentence = f"{version!r} in pyproject.toml is not a version such as 1.2.3 or 1.2.3-rc.1."
    assert (sentence in release.problems_of_files(version)) is not is_valid
