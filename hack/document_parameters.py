"""Writes the table of request parameters of docs/api.md from the code's; ``--check`` only looks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Run as a script, Python puts hack/ on the path and not the repository.
sys.path.insert(0, str(ROOT))

from hack.marked_tables import markdown_table, renewed, write  # noqa: E402
from predictor.requests.fields import FIELDS, RequestField  # noqa: E402

DOCUMENT = ROOT / "docs" / "api.md"


def documented(document: str) -> str:
    """The document with the table between the markers renewed."""
    return renewed(document, "parameters", parameters_table())


def parameters_table() -> str:
    """A Markdown table: one parameter per row."""
    head = ("parameter", "type", "default", "bounds", "what it does")
    return markdown_table([head, *map(_row, FIELDS)])


def _row(field: RequestField) -> tuple[str, ...]:
    return (
        f"`{field.name}`",
        field.type_in_words,
        field.default,
        field.bounds_in_words,
        field.help + _aliases(field),
    )


def _aliases(field: RequestField) -> str:
    names = ", ".join(f"`{alias}`" for alias in field.aliases)
    return f" Alias: {names}." if names else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """See ``write``."""
    return write({DOCUMENT: documented}, "the table of parameters", arguments)


if __name__ == "__main__":
    sys.exit(main())
