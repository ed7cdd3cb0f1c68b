"""Generated tables in documents, each between a pair of markers."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def renewed(document: str, mark: str, table: str) -> str:
    """The document with ``table`` between ``<!-- mark -->`` and ``<!-- /mark -->``."""
    begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    document, found = pattern.subn(lambda _: begin + table + end, document)
    if found != 1:
        raise SystemExit(f"expected one pair of markers {begin.strip()}, found {found}")
    return document


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table from rows, the header first; padded to align as plain text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # The last column may hold whole sentences.
    widths[-1] = 0
    rule = ["-" * max(width, 3) for width in widths]
    lines = (
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in (rows[0], rule, *rows[1:])
    )
    return "".join(f"| {line} |\n" for line in lines)


def write(
    documents: Mapping[Path, Callable[[str], str]], what: str, arguments: Sequence[str] | None
) -> int:
    """Update the documents; with ``--check``, only return 1 if one is out of date."""
    parser = argparse.ArgumentParser(description=f"Write {what}.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    check = parser.parse_args(arguments).check
    outdated = []
    for path, update in documents.items():
        before = path.read_text("utf-8")
        after = update(before)
        if before != after:
            outdated.append(path.name)
        if not check:
            path.write_text(after, "utf-8")
    if not check or not outdated:
        return 0
    print(f"{', '.join(outdated)}: {what} are out of date: run `make manifests`", file=sys.stderr)
    return 1
