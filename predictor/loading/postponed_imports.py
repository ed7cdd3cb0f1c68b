"""Imports torch, diffusers and transformers without what only few models need of them.

These libraries import more than most models use: ``torch._dynamo`` compiles, and ``scipy.stats`` is
for two kinds of noise schedules. Placeholders take their place until something uses them.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from predictor.imports import import_modules

_REMOVAL = threading.Lock()


class PostponedModule(ModuleType):
    """Stands in for a package, and imports it once code uses an attribute that ``known`` lacks.

    Imports of its submodules work as usual. The package must be installed, and not imported yet.
    """

    def __init__(self, name: str, **known: object) -> None:
        super().__init__(name)
        parent, _, child = name.rpartition(".")
        spec = find_spec(parent)
        assert spec is not None
        folders = [str(Path(one, child)) for one in spec.submodule_search_locations or ()]
        self.__spec__ = ModuleSpec(name, None, is_package=True)
        self.__spec__.submodule_search_locations = folders
        self.__path__ = folders
        self.__package__ = name
        self.__dict__.update(known)

    def __getattr__(self, attribute: str) -> Any:
        # ``inspect`` looks for these in all modules.
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(self._imported(), attribute)

    def _imported(self) -> ModuleType:
        name = self.__name__
        # Not held during the import, which waits for imports of other threads.
        with _REMOVAL:
            if sys.modules.get(name) is self:
                del sys.modules[name]
        module = importlib.import_module(name)
        for child, submodule in list(sys.modules.items()):
            if child.rpartition(".")[0] == name:
                vars(module).setdefault(child.rpartition(".")[2], submodule)
        return module


class _PackageDistributions(Mapping[str, list[str]]):
    """``importlib.metadata.packages_distributions()``, which reads the files of all packages."""

    def __init__(self, read: Callable[[], Mapping[str, list[str]]]) -> None:
        self._read = read

    @cached_property
    def _known(self) -> Mapping[str, list[str]]:
        return self._read()

    def __getitem__(self, package: str) -> list[str]:
        return self._known[package]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def import_lean(*names: str, compiles: bool) -> None:
    """Import modules that use diffusers; ``compiles`` says that something will be compiled."""
    if "torch" not in sys.modules:
        _postpone("scipy.stats")
        if not compiles:
            _postpone("torch._dynamo", **_uncompiled())
    with _few_files_read():
        import_modules("transformers.utils.import_utils")
        reuse_import_structure()
        import_modules(*names)


def _postpone(name: str, **known: object) -> None:
    if name not in sys.modules:
        sys.modules[name] = PostponedModule(name, **known)


def _uncompiled() -> dict[str, object]:
    """What libraries use of ``torch._dynamo`` in a process that compiles nothing.

    Its decorators then have no effect, and no module is a compiled one.
    """
    compiled = type("OptimizedModule", (), {})
    return {
        "allow_in_graph": _unchanged,
        "assume_constant_result": _unchanged,
        "disable": _unchanged,
        "eval_frame": SimpleNamespace(OptimizedModule=compiled),
    }


def _unchanged(function: Any = None, *_: object, **__: object) -> Any:
    return _unchanged if function is None else function


@contextmanager
def _few_files_read() -> Iterator[None]:
    """Let diffusers read the files of all installed packages only when it needs a name."""
    metadata: Any = importlib.metadata
    read = metadata.packages_distributions
    metadata.packages_distributions = lambda: _PackageDistributions(read)
    try:
        yield
    finally:
        metadata.packages_distributions = read


def reuse_import_structure() -> None:
    """Keep transformers from reading all its files a second time, to list their classes.

    Its package reads them, and then ``transformers.models`` reads the same ones.
    """
    library: Any = importlib.import_module("transformers.utils.import_utils")
    read = library.define_import_structure
    models = Path(library.__file__).parents[1] / "models"

    def define_import_structure(module_path: Any, prefix: str | None = None) -> Any:
        if prefix is not None or Path(module_path) != models / "__init__.py":
            return read(module_path, prefix)
        # In the library's cache.
        structure = read(models, prefix="models")
        return {
            needed: {
                name.removeprefix("models."): classes
                for name, classes in modules.items()
                if name.startswith("models.")
            }
            for needed, modules in structure.items()
        }

    library.define_import_structure = define_import_structure
