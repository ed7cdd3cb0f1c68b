"""Placeholders of packages that only few models need."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from transformers.utils import import_utils

from predictor.loading.postponed_imports import (
    PostponedPackage,
    import_lean,
    postpone,
    reuse_import_structure,
)

SOURCE = """
import time
time.sleep(0.2)  # Long enough for other threads to arrive.
runs = []
runs.append(1)
early = 1
from .part import Part
def answer(): return 42
"""


@pytest.fixture
def placeholder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostponedPackage]:
    """A placeholder of ``large.heavy``, which has an independent submodule and one that is not."""
    heavy = tmp_path / "large" / "heavy"
    heavy.mkdir(parents=True)
    (tmp_path / "large" / "__init__.py").touch()
    (heavy / "__init__.py").write_text(SOURCE)
    (heavy / "part.py").write_text("from large.heavy import early\nclass Part: pass")
    (heavy / "leaf.py").write_text("value = 7")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", sys.meta_path.copy())
    known = set(sys.modules)
    postpone("large.heavy", {"leaf"}, light="known")
    yield sys.modules["large.heavy"]  # type: ignore[misc]
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_the_first_use_of_an_unknown_attribute_imports_the_package(
    placeholder: PostponedPackage,
) -> None:
    assert placeholder.light == "known"
    assert importlib.import_module("large.heavy.leaf").value == 7
    assert not hasattr(placeholder, "__file__")
    postpone("large.heavy")
    assert sys.modules["large.heavy"] is placeholder

    assert placeholder.answer() == 42

    package = sys.modules["large.heavy"]
    assert package is importlib.import_module("large").heavy is not placeholder
    assert package.leaf is sys.modules["large.heavy.leaf"]
    with pytest.raises(AttributeError, match="unknown"):
        _ = placeholder.unknown


def test_the_import_of_a_submodule_imports_the_package_before_it_and_each_once(
    placeholder: PostponedPackage,
) -> None:
    part = importlib.import_module("large.heavy.part")

    package = sys.modules["large.heavy"]
    assert package is not placeholder
    assert package.part is part is sys.modules["large.heavy.part"]
    assert package.Part is part.Part
    assert part.__spec__.origin.endswith("part.py")


def test_threads_that_use_a_placeholder_together_import_the_package_once(
    placeholder: PostponedPackage,
) -> None:
    together = threading.Barrier(4)

    def use() -> int:
        together.wait()
        answer: int = placeholder.answer()
        return answer

    with ThreadPoolExecutor(4) as threads:
        answers = [thread.result() for thread in [threads.submit(use) for _ in range(4)]]

    assert answers == [42] * 4
    assert sys.modules["large.heavy"].runs == [1]


def test_the_classes_of_transformers_are_listed_as_by_transformers_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = import_utils.define_import_structure
    monkeypatch.setattr(import_utils, "define_import_structure", read)
    models = Path(import_utils.__file__).parents[1] / "models"
    own = import_utils.create_import_structure_from_path
    reuse_import_structure()

    reused = import_utils.define_import_structure(str(models / "__init__.py"))

    assert reused == import_utils.spread_import_structure(own(str(models / "__init__.py")))
    clip = str(models / "clip" / "__init__.py")
    assert import_utils.define_import_structure(clip) == read(clip)


def test_the_compiler_is_not_postponed_if_something_will_be_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import sys; found = sys.modules.get('torch._dynamo')"
    (tmp_path / "looks_for_it.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    monkeypatch.delitem(sys.modules, "looks_for_it", raising=False)

    import_lean("looks_for_it", compiles=True)

    assert sys.modules.pop("looks_for_it").found is None
    # The import restores it.
    assert isinstance(importlib.metadata.packages_distributions(), dict)
