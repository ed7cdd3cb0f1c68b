"""Which test files are quick: those that neither load a pipeline nor start a server or a Job.

The rule reads the source, so that slow files need not be imported: a file is slow if it uses a
fixture with the demo model, or if its imports lead to one of ``SLOW_MODULES``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SLOW_FIXTURES = {"client", "demo_model", "server"}
SLOW_MODULES = {
    *("diffusers", "transformers"),
    *("demo.run", "tests.cluster.conftest", "tests.downloader.job", "tests.serving"),
}


def is_quick(path: Path) -> bool:
    """Whether ``make test-quick`` runs the test file."""
    functions = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.FunctionDef)]
    arguments = {argument.arg for function in functions for argument in function.args.args}
    return not arguments & SLOW_FIXTURES and not _reached_from(path) & SLOW_MODULES


def _reached_from(path: Path) -> set[str]:
    """Every module that an import of the file imports, up to the borders of the repository."""
    reached: set[str] = set()
    paths = [path]
    while paths:
        for name in _imports_of(paths.pop()) - reached:
            reached.add(name)
            paths += _files_of(name)
    return reached


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def _imports_of(path: Path) -> set[str]:
    return {
        name.rsplit(".", depth)[0]
        for name in _names_of(path)
        for depth in range(name.count(".") + 1)
    }


def _names_of(path: Path) -> Iterator[str]:
    """The modules of the imports at the top level; those in functions run later, if at all."""
    for node in _tree(path).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _files_of(module: str) -> list[Path]:
    path = ROOT.joinpath(*module.split("."))
    candidates = [path.with_suffix(".py"), path / "__init__.py"]
    return [candidate for candidate in candidates if candidate.is_file()]
