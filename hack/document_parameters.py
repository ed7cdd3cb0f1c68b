"""Writes the tables of parameters and sampler names of docs/api.md; ``--check`` only looks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Run as a script, Python puts hack/ on the path and not the repository.
sys.path.insert(0, str(ROOT))

from hack.marked_tables import markdown_table, renewed, write  # noqa: E402
from predictor.requests.fields import FIELDS, SIZE_HELP, RequestField  # noqa: E402
from predictor.requests.sampler_names import EQUIVALENTS, NEAREST  # noqa: E402

DOCUMENT = ROOT / "docs" / "api.md"


def documented(document: str) -> str:
    """The document with the tables between the markers renewed."""
    document = renewed(document, "parameters", parameters_table())
    return renewed(document, "samplers", samplers_table())


def parameters_table() -> str:
    """A Markdown table: one parameter per row."""
    head = ("parameter", "type", "default", "bounds", "what it does")
    size = ("`size`", "string", "none", "as for `width` and `height`", SIZE_HELP)
    return markdown_table([head, *map(_row, FIELDS), size])


def samplers_table() -> str:
    """A Markdown table: one of A1111's names per row."""
    rows = [(f"`{sampler}`", f"`{name}`") for sampler, name in EQUIVALENTS.items()]
    rows += [(f"`{sampler}`", _nearest(names)) for sampler, names in NEAREST.items()]
    return markdown_table([("A1111", "`scheduler`"), *rows])


def _nearest(names: Sequence[str]) -> str:
    return "none; nearest: " + ", ".join(f"`{name}`" for name in names)


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
    return write({DOCUMENT: documented}, "the tables of parameters", arguments)


if __name__ == "__main__":
    sys.exit(main())
