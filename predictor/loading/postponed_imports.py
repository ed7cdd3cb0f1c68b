"""Imports torch, diffusers and transformers without what only few models need of them.

These libraries import more than most models use: ``torch._dynamo`` compiles, ``scipy.stats`` is for
two kinds of noise schedules, and ``scipy.integrate`` for one scheduler. Placeholders take the place
of each until something uses it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from predictor.imports import import_modules

_REMOVAL = threading.Lock()


class PostponedPackage(ModuleType):
    """Stands in for a package that is not imported yet.

    The first use of an attribute that ``known`` lacks imports it, as does the import of a submodule
    that is not ``independent`` of it.
    """

    def __init__(self, name: str, independent: Collection[str] = (), **known: object) -> None:
        super().__init__(name)
        parent, _, child = name.rpartition(".")
        spec = find_spec(parent)
        assert spec is not None
        self.__path__ = [str(Path(one, child)) for one in spec.submodule_search_locations or ()]
        self.independent_submodules = {f"{name}.{one}" for one in independent}
        self.__dict__.update(known)

    def __getattr__(self, attribute: str) -> Any:
        # ``inspect`` looks for these in all modules.
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(self.import_package(), attribute)

    def import_package(self) -> ModuleType:
        """Import the package in place of this."""
        name = self.__name__
        # Not held during the import, which waits for imports of other threads.
        with _REMOVAL:
            if sys.modules.get(name) is self:
                del sys.modules[name]
        package = importlib.import_module(name)
        for submodule in self.independent_submodules & sys.modules.keys():
            vars(package).setdefault(submodule.rpartition(".")[2], sys.modules[submodule])
        return package


class _SubmoduleFinder(MetaPathFinder):
    """Imports the package of a submodule first, as Python does without a placeholder."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package = sys.modules.get(fullname.rpartition(".")[0])
        if not isinstance(package, PostponedPackage) or fullname in package.independent_submodules:
            return None
        package.import_package()
        # The package may have imported it; a second import would replace its classes.
        imported = sys.modules.get(fullname)
        return ModuleSpec(fullname, _Imported(imported)) if imported else None


class _Imported(Loader):
    """Loads a module that is imported already."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__
        # Otherwise ``importlib`` would load the module again, by this.
        module.__spec__ = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def postpone(name: str, independent: Collection[str] = (), **known: object) -> None:
    """Put a placeholder in place of a package, unless it is imported already."""
    if name in sys.modules:
        return
    if not any(isinstance(finder, _SubmoduleFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _SubmoduleFinder())
    sys.modules[name] = PostponedPackage(name, independent, **known)


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
    postpone("scipy.stats")
    postpone("scipy.integrate")
    if not compiles:
        postpone("torch._dynamo", {"_trace_wrapped_higher_order_op"}, **_uncompiled())
    with _few_files_read():
        import_modules("transformers.utils.import_utils")
        reuse_import_structure()
        leave_out_training()
        import_modules(*names)


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


def leave_out_training() -> None:
    """Keep transformers from importing what it needs for losses and for sharded models.

    It looks for scipy and ``torch.distributed`` first and does without them, but imports their
    largest parts where it finds them.
    """
    for name in ("transformers.utils", "transformers.utils.import_utils"):
        library: Any = importlib.import_module(name)
        library.is_scipy_available = library.is_torch_distributed_available = _is_not_available


def _is_not_available() -> bool:
    return False


def reuse_import_structure() -> None:
    """Keep transformers from reading all its files a second time, to list their classes.

    Its package reads them, and then ``transformers.models`` reads the same ones.
    """
    library: Any = importlib.import_module("transformers.utils.import_utils")
    read = library.define_import_structure
    if read.__module__ == __name__:
        return
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
