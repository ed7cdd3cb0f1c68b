"""Every cell in the tables of supported features has a footnote that names a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENT = ROOT / "docs" / "models.md"
MARK = re.compile(r"\[(\d+)\]$")
FOOTNOTE = re.compile(r'^\[(\d+)\]: \.\./(tests/[\w/]+\.py) "(test_\w+)"$', re.MULTILINE)


def cells() -> list[tuple[str, str]]:
    """The row name and the text of each cell, for both tables."""
    section = DOCUMENT.read_text(encoding="utf-8").partition("## What each family supports")[2]
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


def footnotes() -> dict[str, tuple[str, str]]:
    """The file and the test of each footnote mark."""
    found = FOOTNOTE.findall(DOCUMENT.read_text(encoding="utf-8"))
    assert len({mark for mark, *_ in found}) == len(found)
    return {mark: (file, test) for mark, file, test in found}


def test_every_cell_is_backed_by_a_test() -> None:
    found = {cell: MARK.search(cell) for _, cell in cells()}

    assert len(cells()) == 30 * 5
    assert [cell for cell, match in found.items() if match is None] == []
    marks = {match[1] for match in found.values() if match}
    assert marks == footnotes().keys()
    named = set(footnotes().values())
    missing = [(file, test) for file, test in named if test not in functions_of(ROOT / file)]
    assert missing == []
