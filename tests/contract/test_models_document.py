"""Every cell of the tables of what each family can do names a test that is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENT = ROOT / "docs" / "models.md"
CELL = re.compile(r'\[[^\]]+\]\(\.\./(?P<file>tests/[\w/]+\.py) "(?P<test>test_\w+)"\)')


def cells() -> list[tuple[str, str]]:
    """The row's name and the text of each cell behind it, of both tables."""
    section = DOCUMENT.read_text(encoding="utf-8").partition("## What each family can do")[2]
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    return [
        (name, cell)
        for name, *others in split
        for cell in others
        if name not in ("task", "setting") and not name.startswith("---")
    ]


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_cell_is_backed_by_a_test() -> None:
    found = {cell: CELL.search(cell) for _, cell in cells()}

    assert len(cells()) == 26 * 5
    assert [cell for cell, match in found.items() if match is None] == []
    named = {(match["file"], match["test"]) for match in found.values() if match}
    missing = [(file, test) for file, test in named if test not in functions_of(ROOT / file)]
    assert missing == []
