"""Imports without the garbage collector."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from predictor.imports import import_modules


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path; what the test imports and freezes is undone."""
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    yield tmp_path
    gc.unfreeze()
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_the_collector_rests_during_the_import_and_skips_its_objects_later(folder: Path) -> None:
    (folder / "large_package.py").write_text("import gc; was_enabled = gc.isenabled(); held = [[]]")

    import_modules("large_package")

    assert not sys.modules["large_package"].was_enabled
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    assert not any(one is sys.modules["large_package"].held for one in gc.get_objects())


def test_an_import_that_fails_leaves_the_collector_enabled(folder: Path) -> None:
    (folder / "broken_package.py").write_text("raise RuntimeError('no driver')")

    with pytest.raises(RuntimeError, match="no driver"):
        import_modules("broken_package")

    assert gc.isenabled()


def test_known_modules_freeze_nothing(folder: Path) -> None:
    frozen = gc.get_freeze_count()

    import_modules("sys", "gc")

    assert gc.get_freeze_count() == frozen
