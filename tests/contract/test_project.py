"""The project's own files: packages, lock files, the Makefile and CI."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.quick import is_quick

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
TARGETS = {
    *("demo", "serve", "test", "test-quick", "check", "bench", "images", "package", "release"),
    *("manifests", "clean"),
}


def pins(lock: str) -> dict[str, str]:
    text = (ROOT / "requirements" / lock).read_text("utf-8")
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))


def test_every_package_is_in_the_distribution() -> None:
    folders = {
        str(init.parent.relative_to(ROOT)).replace("/", ".")
        for top in ("predictor", "downloader", "modelstore", "deploy", "jobs")
        for init in (ROOT / top).rglob("__init__.py")
    }

    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders


def test_the_files_of_the_page_are_in_the_distribution() -> None:
    folder = ROOT / "predictor" / "ui"
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["predictor.ui"]
    included = {path for pattern in patterns for path in folder.glob(pattern)}

    assert {path for path in folder.rglob("*") if path.is_file() and path.suffix[:3] != ".py"} == (
        included
    )
    assert folder / "static" / "index.html" in included


def test_torch_is_pinned_and_xformers_is_only_in_the_gpu_lock() -> None:
    assert pins("predictor.lock")["torch"] == "2.13.0"
    assert pins("predictor.lock")["xformers"] == "0.0.35"
    assert pins("dev.lock")["torch"] == "2.13.0"
    # It has no wheels for arm64.
    text = (ROOT / "requirements" / "predictor.lock").read_text("utf-8")
    (pin,) = re.findall(r"^xformers==.*$", text, re.MULTILINE)
    assert 'platform_machine == "x86_64"' in pin
    for lock in ("dev.lock", "downloader.lock", "predictor-cpu.lock"):
        assert "xformers" not in pins(lock)
        assert not [name for name in pins(lock) if name.startswith("nvidia-")]


@pytest.mark.parametrize("lock", ["downloader.lock", "jobs.lock"])
def test_the_lock_excludes_torch(lock: str) -> None:
    assert pins(lock).keys().isdisjoint({"torch", "diffusers", "transformers"})


def test_the_locks_have_what_the_programs_import() -> None:
    assert {"botocore", "httpx", "redis", "starlette", "uvicorn"} <= pins("jobs.lock").keys()
    assert "huggingface-hub" in pins("downloader.lock")


@pytest.mark.parametrize(
    "lock", ["predictor.lock", "predictor-cpu.lock", "downloader.lock", "jobs.lock"]
)
def test_every_pin_in_an_images_lock_has_a_hash(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text("utf-8")

    assert all(
        "--hash=sha256:" in entry for entry in re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    )


def test_the_tested_versions_are_the_shipped_ones() -> None:
    tested = pins("dev.lock")
    for lock in ("predictor.lock", "predictor-cpu.lock", "downloader.lock", "jobs.lock"):
        shipped = pins(lock)
        differing = {
            name for name in shipped.keys() & tested.keys() if shipped[name] != tested[name]
        }
        assert differing == set(), lock


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)

    assert {line.split()[0] for line in done.stdout.splitlines()} >= TARGETS


def test_ci_runs_the_tests_and_the_checks() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")

    assert re.findall(r"^make (\w+)$", script, re.MULTILINE) == ["test", "check"]


@pytest.mark.parametrize(
    ("file", "quick"),
    [
        ("platform/test_rules.py", True),
        ("predictor/test_step_loop.py", True),
        ("downloader/test_spec.py", True),
        # These use the shared server, the demo model, a pipeline in a helper, and the downloader.
        ("predictor/test_seeds.py", False),
        ("predictor/test_families.py", False),
        ("predictor/test_refiner_pictures.py", False),
        ("downloader/test_resume.py", False),
        ("cluster/test_cpu_demo.py", False),
    ],
)
def test_slow_files_are_recognised(file: str, quick: bool) -> None:
    assert is_quick(ROOT / "tests" / file) is quick


def test_the_version_is_the_same_everywhere() -> None:
    version = PROJECT["project"]["version"]

    assert f"appVersion: {version}" in (ROOT / "helm" / "Chart.yaml").read_text().replace('"', "")
    for dockerfile in ("Dockerfile", "Dockerfile.downloader", "Dockerfile.jobs"):
        assert f"ARG VERSION={version}" in (ROOT / dockerfile).read_text()
