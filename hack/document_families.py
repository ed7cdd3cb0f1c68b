"""Write the table of families in docs/models.md; with ``--check``, only compare."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A script has its own folder on the import path, not the repository's root.
sys.path.insert(0, str(ROOT))

from hack.marked_tables import markdown_table, renewed, write  # noqa: E402
from predictor.checkpoint.families import FAMILIES  # noqa: E402

DOCUMENT = ROOT / "docs" / "models.md"
_PIXELS_PER_LATENT = 8


def documented(document: str) -> str:
    """The document with its generated table updated."""
    return renewed(document, "families", families_table())


def families_table() -> str:
    """A Markdown table with one family per row."""
    head = ["family", "size", "steps", "guidance", "scheduler", "on a GPU"]
    rows = [[*head, "recognised by"]]
    for family in FAMILIES:
        side = family.latent_side * _PIXELS_PER_LATENT
        rows.append(
            [
                f"`{family.name}`",
                f"{side}x{side}",
                _or_own(family.num_inference_steps),
                _or_own(family.guidance_scale),
                f"`{family.scheduler or 'default'}`",
                family.gpu_dtype,
                family.recognised_by,
            ]
        )
    return markdown_table(rows)


def _or_own(value: float | None) -> str:
    return "its own" if value is None else f"{value:g}"


def main(arguments: Sequence[str] | None = None) -> int:
    """See ``write``."""
    return write({DOCUMENT: documented}, "the family tables", arguments)


if __name__ == "__main__":
    sys.exit(main())
