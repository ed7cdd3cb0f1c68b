"""One module touches the private names of kserve and uvicorn, and says of which versions."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import kserve.model
import kserve.model_repository
import kserve.model_server
import kserve.protocol.dataplane
import kserve.protocol.model_repository_extension
import kserve.protocol.rest.server
import pytest
import uvicorn.server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from predictor.edge import connection, kserve_internals

PREDICTOR = Path(__file__).resolve().parent.parent.parent / "predictor"
INTERNALS = Path(kserve_internals.__file__)
# It extends a class of uvicorn; the tests at the end check what it relies on.
CONNECTION = Path(connection.__file__)
LIBRARY_MODULES = (
    kserve.model,
    kserve.model_repository,
    kserve.model_server,
    kserve.protocol.dataplane,
    kserve.protocol.model_repository_extension,
    kserve.protocol.rest.server,
    uvicorn.server,
)
# Uvicorn neither documents these nor marks them as private.
UNDOCUMENTED = {"capture_signals", "server_state"}


def names_used(tree: ast.AST) -> Iterator[str]:
    """Every attribute that a module reads or sets, and every function that it defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@cache
def library_names() -> frozenset[str]:
    """The private attributes and methods of the classes that the server builds on."""
    trees = [ast.parse(inspect.getsource(module)) for module in LIBRARY_MODULES]
    return frozenset(filter(is_private, (n for t in trees for n in names_used(t)))) | UNDOCUMENTED


def private_uses(path: Path) -> set[str]:
    return library_names().intersection(names_used(ast.parse(path.read_text("utf-8"))))


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(PREDICTOR.rglob("*.py")) if path not in (INTERNALS, CONNECTION)],
    ids=lambda path: path.relative_to(PREDICTOR).as_posix(),
)
def test_no_other_module_touches_private_names_of_kserve_and_uvicorn(path: Path) -> None:
    assert private_uses(path) == set()


def test_the_module_uses_private_names_that_the_libraries_still_have() -> None:
    assert private_uses(INTERNALS) >= {
        "_add_exception_handlers",
        "_model_registry",
        "_register_and_check_atleast_one_model_is_ready",
        "_rest_server",
        "_serve",
        "_server",
        "capture_signals",
        "server_state",
    }


@pytest.mark.parametrize("library", ["kserve", "uvicorn"])
def test_the_module_names_the_versions_it_was_checked_against(library: str) -> None:
    major, minor = version(library).split(".")[:2]

    assert f"{library} {major}.{minor} " in str(kserve_internals.__doc__)


def test_the_connection_names_the_version_of_uvicorn_that_it_extends() -> None:
    major, minor = version("uvicorn").split(".")[:2]

    assert f"uvicorn {major}.{minor} " in str(connection.__doc__)


def test_the_connection_overrides_methods_that_uvicorn_still_has() -> None:
    own = {name for name in vars(connection.BoundedConnection) if not is_private(name)}
    own -= {"end"} | {name for name in own if name.startswith("__") and name != "__init__"}

    assert {"data_received", "eof_received", "on_header", "on_headers_complete"} <= own
    assert own <= vars(HttpToolsProtocol).keys()
