"""``make package``: the archive of the chart, read by the real Helm engine."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from hack import package_chart
from hack.package_chart import PackagingError, annotations, lint, packaged

from .rendering import CHART, ROOT, case_values

METADATA = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
REGISTRY = "registry.example.com/team"
SOURCE = "https://example.com/team/repository"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive without a registry."""
    return packaged(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of a release."""
    return packaged(tmp_path_factory.mktemp("dist"), REGISTRY, SOURCE)


def rendered(chart: Path, case: str) -> dict[str, str]:
    with helm_python.Chart.load(chart) as loaded:
        return loaded.render(case_values(case), name="stable-diffusion")


def metadata_of(chart: Path) -> dict[str, Any]:
    with helm_python.Chart.load(chart) as loaded:
        return loaded.metadata


def git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_the_name_of_the_archive_has_the_version(archive: Path) -> None:
    assert archive.name == f"stable-diffusion-{METADATA['version']}.tgz"


@pytest.mark.parametrize("case", ["default", "many-models"])
def test_the_archive_renders_as_the_folder_does(archive: Path, case: str) -> None:
    assert rendered(archive, case) == rendered(CHART, case)


def test_the_archive_has_the_tracked_files_except_the_test_cases(archive: Path) -> None:
    with tarfile.open(archive) as opened:
        names = set(opened.getnames())

    tracked = {name.removeprefix("helm/") for name in git("ls-files", "helm").splitlines()}
    packed = {name.removeprefix("stable-diffusion/") for name in names}
    assert packed - {".helmignore"} == {
        name for name in tracked if not name.startswith("ci/") and name != ".helmignore"
    }


def test_the_archive_is_the_same_wherever_a_commit_is_packaged(
    archive: Path, tmp_path: Path
) -> None:
    commit = int(git("show", "--no-patch", "--format=%ct", "HEAD"))
    with tarfile.open(archive) as opened:
        assert {member.mtime for member in opened.getmembers()} == {commit}

    umask = os.umask(0o077)
    try:
        again = packaged(tmp_path)
    finally:
        os.umask(umask)

    assert again.read_bytes() == archive.read_bytes()


def test_a_published_chart_pulls_the_published_images(published: Path) -> None:
    texts = "".join(rendered(published, "default").values())

    images = re.findall(r"^\s+image: (\S+)$", texts, re.MULTILINE)
    assert set(images) == {
        f"{REGISTRY}/stable-diffusion-{program}:{METADATA['appVersion']}"
        for program in ("predictor", "downloader")
    }


def test_a_published_chart_describes_itself_to_artifact_hub(published: Path) -> None:
    metadata = metadata_of(published)
    found = {
        key.removeprefix("artifacthub.io/"): yaml.safe_load(text)
        for key, text in metadata["annotations"].items()
    }

    assert (metadata["home"], metadata["sources"]) == (SOURCE, [SOURCE])
    assert found["license"] == "Apache-2.0"
    assert found["category"] == "ai-machine-learning"
    assert {image["name"]: image["image"] for image in found["images"]} == {
        program: f"{REGISTRY}/stable-diffusion-{program}:{METADATA['appVersion']}"
        for program in ("predictor", "downloader", "jobs")
    }
    assert all(image["platforms"] == ["linux/amd64", "linux/arm64"] for image in found["images"])
    version = METADATA["version"]
    assert {link["url"] for link in found["links"]} == {
        f"{SOURCE}/tree/v{version}/docs",
        f"{SOURCE}/blob/v{version}/CHANGELOG.md",
    }
    for key in ("name", "version", "appVersion", "kubeVersion", "description", "keywords"):
        assert metadata[key] == METADATA[key]


def test_an_archive_without_a_registry_names_no_images_or_links(archive: Path) -> None:
    metadata = metadata_of(archive)

    assert not {"artifacthub.io/images", "artifacthub.io/links"} & metadata["annotations"].keys()
    assert "home" not in metadata


def test_the_annotations_have_the_changes_of_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changelog = "## 2.0.0-rc.1 - 2026-01-02\n\n### Fixed\n\n- A: *bug*.\n"
    (tmp_path / "CHANGELOG.md").write_text(changelog)
    monkeypatch.setattr(package_chart, "ROOT", tmp_path)

    candidate = annotations({"version": "2.0.0-rc.1", "appVersion": "2.0.0-rc.1"}, {}, "")
    other = annotations({"version": "1.0.0", "appVersion": "1.0.0"}, {}, "")

    assert yaml.safe_load(candidate["artifacthub.io/changes"]) == [
        {"kind": "fixed", "description": "A: *bug*."}
    ]
    assert candidate["artifacthub.io/prerelease"] == "true"
    assert other == {"artifacthub.io/prerelease": "false"}


def test_a_chart_that_helm_lint_warns_about_is_refused(tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: example\nversion: 1.0.0\n")
    (chart / "values.yaml").touch()
    (chart / "templates" / "broken.yaml").write_text("{{ .Values.missing.key }}\n")

    with pytest.raises(PackagingError, match=r"^helm lint: .*broken\.yaml"):
        lint(chart)


def test_the_command_prints_how_to_push_the_archive(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "hack" / "package_chart.py")),
            *(f"--registry={REGISTRY}/", "--destination=dist"),
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )

    archive = f"dist/stable-diffusion-{METADATA['version']}.tgz"
    described, push = done.stdout.splitlines()
    assert described == f"{archive} {helm_python.digest(tmp_path / archive)}"
    assert shlex.split(push) == ["helm", "push", archive, f"oci://{REGISTRY}/charts"]
