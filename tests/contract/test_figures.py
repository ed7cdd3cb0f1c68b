"""Every figure of the README's speed section is one that a script in ``bench/`` printed."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SECTION = (ROOT / "README.md").read_text("utf-8").partition("## How fast")[2].partition("\n## ")[0]


def test_the_sentence_holds_the_figures_of_the_servings_bench() -> None:
    result = json.loads((ROOT / "bench" / "results" / "serving.json").read_text())

    assert f"{result['served_median_seconds']:.3f} s over HTTP" in SECTION
    assert f"{result['bare_median_seconds']:.3f} s for the bare" in SECTION
