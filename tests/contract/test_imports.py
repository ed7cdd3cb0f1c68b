"""Who may import whom: the seams between the packages, read from the source itself."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("predictor", "downloader", "modelstore", "deploy")


def imported_modules(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top or within a function."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name"
            yield str(node.module)


def importers(package: str, forbidden: set[str]) -> list[str]:
    """The imports of ``package`` that lie under a forbidden name."""
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths, package
    return [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in paths
        for module in imported_modules(path)
        for name in forbidden
        if module == name or module.startswith(f"{name}.")
    ]


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("predictor", {"downloader", "demo", "tests", "bench", "huggingface_hub"}),
        ("downloader", {"predictor", "demo", "tests", "torch", "diffusers", "transformers"}),
        ("deploy", {"predictor", "downloader", "demo", "tests", "torch", "diffusers", "kserve"}),
        ("deploy/explain", {"kubernetes", "deploy.cluster", "rich", "urllib3"}),
        ("predictor/protocol", {"torch", "diffusers", "transformers", "kserve"}),
        ("predictor/engine", {"kserve", "fastapi", "starlette", "predictor.protocol"}),
    ],
)
def test_a_package_stays_on_its_side(package: str, forbidden: set[str]) -> None:
    assert importers(package, forbidden) == []


def test_the_model_store_needs_only_the_standard_library() -> None:
    foreign = {
        module
        for path in (ROOT / "modelstore").rglob("*.py")
        for module in imported_modules(path)
        if module.split(".")[0] not in {*sys.stdlib_module_names, "modelstore"}
    }

    assert foreign == set()


def test_only_the_server_side_knows_kserve() -> None:
    knowing = {line.split()[0] for line in importers("predictor", {"kserve"})}

    assert knowing == {
        f"predictor/{name}.py"
        for name in ("arguments", "error_responses", "logs", "model", "repository", "server")
    }


def test_one_module_of_the_deploy_command_talks_to_the_cluster() -> None:
    """`kubernetes.utils` only parses text."""
    talking = {
        line.split()[0]
        for line in importers("deploy", {"kubernetes"})
        if not line.endswith(" imports kubernetes.utils")
    }

    assert talking == {"deploy/cluster.py"}


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_unpickles(package: str) -> None:
    assert importers(package, {"pickle", "dill", "joblib"}) == []
    text = "".join(path.read_text("utf-8") for path in (ROOT / package).rglob("*.py"))
    assert "torch.load" not in text
    assert "trust_remote_code" not in text


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_stay_small_and_say_what_they_are(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        text = path.read_text("utf-8")
        assert text.count("\n") <= 300, path
        assert ast.get_docstring(ast.parse(text)), path
