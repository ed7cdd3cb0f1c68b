"""The downloader's modules import one way, in the order of docs/architecture.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.contract.test_imports import imported_modules

PACKAGE = Path(__file__).resolve().parent.parent.parent / "downloader"
# Each stage imports only from the stages before it.
ORDER = (
    *("errors", "settings", "workers", "logs", "cli"),
    *("spec", "sources", "hashing", "selection", "plan", "fetch", "weights", "volume", "repair"),
    *("download", "verbs", "__main__"),
)


def stages(path: Path) -> Iterator[tuple[str, str]]:
    """The stage of a module, paired with each stage that it imports."""
    stage = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for module in imported_modules(path):
        package, _, rest = module.partition(".")
        if package == PACKAGE.name and rest:
            yield stage, rest.partition(".")[0]


def test_every_stage_has_its_place() -> None:
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}

    assert found - {"__init__", "__pycache__"} == set(ORDER)


def test_no_stage_imports_a_later_one() -> None:
    against = {
        f"{stage} imports {imported}"
        for path in PACKAGE.rglob("*.py")
        for stage, imported in stages(path)
        if stage in ORDER and ORDER.index(imported) > ORDER.index(stage)
    }

    assert against == set()


def test_no_two_modules_share_a_name() -> None:
    names = [path.stem for path in PACKAGE.rglob("*.py") if path.stem != "__init__"]
    folders = [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]

    assert sorted({*names, *folders}) == sorted([*names, *folders])
