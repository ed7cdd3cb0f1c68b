"""Tables that a script writes into a document, each between a pair of markers."""

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
        raise SystemExit(f"one pair of markers {begin.strip()} is needed, not {found}")
    return document


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the head first; columns are padded to read well as plain text."""
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
    """Write the documents again, or with ``--check`` exit with 1 where one is not up to date."""
    parser = argparse.ArgumentParser(description=f"Write {what}.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on a drift")
    check = parser.parse_args(arguments).check
    old = []
    for path, renew in documents.items():
        before = path.read_text("utf-8")
        after = renew(before)
        if before != after:
            old.append(path.name)
        if not check:
            path.write_text(after, "utf-8")
    if not check or not old:
        return 0
    print(f"{', '.join(old)}: {what} not up to date: run `make manifests`", file=sys.stderr)
    return 1
