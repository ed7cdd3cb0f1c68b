"""Placeholders of packages that only few models need."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from transformers.utils import import_utils

from predictor.loading.postponed_imports import PostponedModule, reuse_import_structure

SOURCE = """
import time
time.sleep(0.2)  # Long enough for other threads to arrive.
runs = []
runs.append(1)
from . import part
def answer(): return 42
"""


@pytest.fixture
def placeholder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostponedModule]:
    """A placeholder of ``large.heavy``, which has the submodule ``part``."""
    heavy = tmp_path / "large" / "heavy"
    heavy.mkdir(parents=True)
    (tmp_path / "large" / "__init__.py").touch()
    (heavy / "__init__.py").write_text(SOURCE)
    (heavy / "part.py").write_text("value = 7")
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    sys.modules["large.heavy"] = PostponedModule("large.heavy", light="known")
    yield sys.modules["large.heavy"]  # type: ignore[misc]
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_a_placeholder_is_replaced_on_the_first_use_of_an_unknown_attribute(
    placeholder: PostponedModule,
) -> None:
    large = importlib.import_module("large")
    assert placeholder.light == "known"
    assert importlib.import_module("large.heavy.part").value == 7
    assert not hasattr(placeholder, "__file__")
    assert sys.modules["large.heavy"] is placeholder

    assert placeholder.answer() == 42

    assert sys.modules["large.heavy"] is large.heavy is not placeholder
    assert large.heavy.part is sys.modules["large.heavy.part"]
    with pytest.raises(AttributeError, match="unknown"):
        _ = placeholder.unknown


def test_threads_that_use_a_placeholder_together_import_the_package_once(
    placeholder: PostponedModule,
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


def test_a_process_that_compiles_has_no_placeholder_of_the_compiler() -> None:
    code = (
        "import sys\n"
        "from predictor.loading.postponed_imports import PostponedModule, import_lean\n"
        "import_lean('json', compiles=True)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "assert isinstance(sys.modules['scipy.stats'], PostponedModule)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    # Restored after the imports.
    assert isinstance(importlib.metadata.packages_distributions(), dict)
