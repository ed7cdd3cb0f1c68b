"""Import rules, checked in the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Container, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("predictor", "downloader", "modelstore", "deploy", "jobs")


def imported_modules(path: Path) -> Iterator[str]:
    """Every module that a file imports, at the top or in a function."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name"
            yield str(node.module)


def importers(package: str, forbidden: set[str]) -> list[str]:
    """The imports of forbidden modules in ``package``."""
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
        ("jobs", {"predictor", "downloader", "modelstore", "deploy", "demo", "tests", "bench"}),
        ("jobs", {"torch", "diffusers", "transformers", "kserve", "fastapi", "numpy", "PIL"}),
        ("jobs/storage", {"starlette", "uvicorn", "httpx"}),
        ("deploy/explain", {"kubernetes", "deploy.cluster", "rich", "urllib3"}),
        ("predictor/protocol", {"torch", "diffusers", "transformers", "kserve"}),
        ("predictor/wire_formats", {"torch", "diffusers", "kserve", "fastapi", "predictor.engine"}),
        ("predictor/engine", {"kserve", "fastapi", "starlette", "predictor.protocol"}),
    ],
)
def test_a_package_imports_nothing_forbidden(package: str, forbidden: set[str]) -> None:
    assert importers(package, forbidden) == []


def test_the_model_store_needs_only_the_standard_library() -> None:
    foreign = {
        module
        for path in (ROOT / "modelstore").rglob("*.py")
        for module in imported_modules(path)
        if module.split(".")[0] not in {*sys.stdlib_module_names, "modelstore"}
    }

    assert foreign == set()


def test_only_the_server_modules_import_kserve() -> None:
    knowing = {line.split()[0] for line in importers("predictor", {"kserve"})}

    assert knowing == {
        f"predictor/{name}.py"
        for name in (
            "edge/data_plane",
            "edge/error_responses",
            "edge/grpc_calls",
            "edge/grpc_messages",
            "edge/kserve_internals",
            "edge/model",
            "edge/repository",
            "edge/server",
            "logs",
        )
    }


def test_one_module_of_the_deploy_command_imports_the_kubernetes_client() -> None:
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


def documented_order() -> list[list[str]]:
    """The levels of the import order in docs/architecture.md, one line each."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    _, _, rest = text.partition("## Import order")
    return [line.split() for line in rest.split("```")[1].strip().splitlines()]


def imports_of(package: str) -> dict[str, set[str]]:
    """Each module of a package, with its imports from the same package."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / package).rglob("*.py")
    }
    return {name: set(_imported_from(path, paths)) - {name} for name, path in paths.items()}


def _imported_from(path: Path, known: Container[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (
                name if name in known else str(node.module)
                for name in names
                if name in known or node.module in known
            )
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)


def folder_of(module: str) -> str:
    """The top-level folder of a module, or the module itself if it is in none."""
    return ".".join(module.split(".")[1:2])


def between_folders(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    folders: dict[str, set[str]] = {}
    for module, imported in imports.items():
        others = {folder_of(one) for one in imported} - {folder_of(module)}
        folders.setdefault(folder_of(module), set()).update(others)
    return folders


def cycle_in(imports: dict[str, set[str]]) -> tuple[str, ...]:
    """The members of one cycle; empty if there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return tuple(error.args[1])
    return ()


def test_the_predictors_folders_import_in_the_documented_order() -> None:
    levels = {folder: level for level, line in enumerate(documented_order()) for folder in line}
    folders = between_folders(imports_of("predictor"))

    assert folders.keys() - {""} == levels.keys()
    upward = [
        f"{folder} imports {other}"
        for folder, others in folders.items()
        for other in others
        if levels[other] <= levels[folder]
    ]
    assert upward == []


@pytest.mark.parametrize("package", PACKAGES)
def test_neither_files_nor_folders_form_an_import_cycle(package: str) -> None:
    imports = imports_of(package)

    assert cycle_in(imports) == ()
    assert cycle_in(between_folders(imports)) == ()


def test_a_cycle_is_found() -> None:
    cycle = {"a.one.x": {"a.two.y"}, "a.two.y": set(), "a.two.z": {"a.one.x"}}

    assert cycle_in(cycle) == ()
    assert set(cycle_in(between_folders(cycle))) == {"one", "two"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_has_a_docstring(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_modules_share_a_name(package: str) -> None:
    names = [path.stem for path in (ROOT / package).rglob("*.py") if path.stem != "__init__"]

    assert sorted(set(names)) == sorted(names)
