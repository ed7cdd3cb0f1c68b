"""Writes the table of families of docs/models.md from the code's; ``--check`` only looks."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Run as a script, Python puts hack/ on the path and not the repository.
sys.path.insert(0, str(ROOT))

from predictor.families.family import Family  # noqa: E402
from predictor.families.table import FAMILIES  # noqa: E402

DOCUMENT = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- families -->\n", "<!-- /families -->"
_PIXELS_PER_LATENT = 8


def documented(document: str) -> str:
    """The document with the table between the markers renewed."""
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    renewed, found = pattern.subn(lambda _: BEGIN + families_table() + END, document)
    if found != 1:
        raise SystemExit(f"{DOCUMENT.name} needs one pair of markers {BEGIN.strip()}")
    return renewed


def families_table() -> str:
    """A Markdown table: a family a row."""
    rows = [
        "| family | recognised by | size | steps | guidance | scheduler | on a GPU "
        "| VAE in float32 |",
        "| --- " * 8 + "|",
    ]
    for family in FAMILIES:
        side = family.latent_side * _PIXELS_PER_LATENT
        cells = [
            f"`{family.name}`",
            family.recognised_by,
            f"{side}x{side}",
            _or_own(family.num_inference_steps, "its `__call__`'s"),
            _or_own(family.guidance_scale, "its `__call__`'s"),
            f"`{family.scheduler or 'default'}`",
            f"{family.gpu_dtype}: {family.dtype_reason}",
            _vae(family),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _or_own(value: float | None, own: str) -> str:
    return own if value is None else f"{value:g}"


def _vae(family: Family) -> str:
    return "with `force_upcast`" if family.upcasts_vae else "no"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table, or with ``--check`` exit with 1 where it is not up to date."""
    parser = argparse.ArgumentParser(description="Write the table of families of docs/models.md.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on a drift")
    check = parser.parse_args(arguments).check
    before = DOCUMENT.read_text("utf-8")
    after = documented(before)
    if check and before != after:
        print("docs/models.md: the table is old: run `make manifests`", file=sys.stderr)
        return 1
    if not check:
        DOCUMENT.write_text(after, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
