"""``docs/memory.md`` matches the presets in the code and the results of the benchmark."""

from __future__ import annotations

import json
import re
from dataclasses import astuple, fields
from pathlib import Path

from bench.memory import RESULTS, table
from predictor.loading.presets import PRESETS
from predictor.pipelines.tuning import Savings

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "memory.md").read_text("utf-8")


def between(mark: str) -> str:
    return DOCUMENT.partition(f"<!-- {mark} -->\n")[2].partition(f"<!-- /{mark} -->")[0]


def test_the_presets_match_the_code() -> None:
    head, _, *rows = between("presets").splitlines()
    words = {True: "yes", False: "no"}

    assert re.findall(r"`(\w+)`", head) == [field.name for field in fields(Savings)]
    assert rows == [
        f"| `{name}` | {' | '.join(words.get(value, value) for value in astuple(savings))} |"
        for name, savings in PRESETS.items()
    ]


def test_the_figures_match_the_results() -> None:
    assert between("figures").strip() == table(json.loads(RESULTS.read_text("utf-8")))
