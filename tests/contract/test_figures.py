"""Every figure in the speed sections comes from the results in ``bench/results/``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hack.document_figures import CLAIMS, SHARES, in_words

ROOT = Path(__file__).resolve().parent.parent.parent
SECTION = (ROOT / "README.md").read_text("utf-8").partition("## How fast")[2].partition("\n## ")[0]
PERFORMANCE = (ROOT / "docs" / "performance.md").read_text("utf-8")
TEXT = " ".join(PERFORMANCE.split())
CONCURRENCY = json.loads((ROOT / "bench" / "results" / "concurrency.json").read_text())


def test_the_sentence_on_overhead_has_the_measured_figures() -> None:
    result = json.loads((ROOT / "bench" / "results" / "serving.json").read_text())

    assert f"{result['served_median_seconds']:.3f} s over HTTP" in TEXT
    assert f"{result['bare_median_seconds']:.3f} s for the bare" in TEXT


@pytest.mark.parametrize(("load", "section", "measure"), CLAIMS)
def test_each_row_of_the_readme_describes_the_measured_ratio(
    load: str, section: str, measure: str
) -> None:
    row = re.search(rf"^\| {load} +\|(.*)\|(.*)\|$", SECTION, re.MULTILINE)
    assert row

    for contestant, words in zip(("bare", "tuned"), row.groups(), strict=True):
        ratio = CONCURRENCY[section]["ratios"][contestant][measure]
        if measure == "images_per_second":
            said = float(words.split(" times as many pictures a second")[0])
        else:
            said = {text: share for share, text in SHARES.items()}[words.strip().split("waits ")[1]]
        assert said == pytest.approx(ratio, rel=0.05)


def test_a_ratio_becomes_the_nearest_words() -> None:
    assert in_words("p50", 0.102) == "waits a tenth as long"
    assert in_words("p95", 1.95) == "waits twice as long"
    assert in_words("images_per_second", 3.133) == "3.1 times as many pictures a second"


def test_the_documents_name_the_machine_of_the_results() -> None:
    machines = {section["machine"] for section in CONCURRENCY.values()}
    dates = {section["date"] for section in CONCURRENCY.values()}

    assert machines == {"x86_64, 2 cores"}
    assert "two x86-64 CPU cores" in SECTION
    assert f"two x86-64 cores, {max(dates)}" in TEXT


def test_the_sentences_of_the_performance_document_have_the_measured_figures() -> None:
    memory, muse = CONCURRENCY["memory"], CONCURRENCY["muse"]
    tuned = CONCURRENCY["tune"]["contestants"]
    errors = [value for key, value in figures(CONCURRENCY) if key == "errors"]

    assert f"{memory['mib_after_200']:.0f} MiB after 200 requests" in TEXT
    assert f"{memory['mib_after_2000']:.0f} MiB after 2,000" in TEXT
    assert f"({100 * memory['growth']:.1f} % more)" in TEXT
    lone = muse["1 user"]["contestants"]["muse"]["p50"]
    assert f"one picture in {lone:.1f} s" in TEXT
    ratio = muse["16 users"]["ratios"]["muse"]["images_per_second"]
    assert "a quarter of the pictures" in TEXT
    assert 1 / ratio == pytest.approx(1 / 4, rel=0.1)
    assert "best of the nine combinations" in TEXT
    assert len(tuned) == 9
    assert errors
    assert not any(errors)


def figures(node: object) -> list[tuple[str, object]]:
    """Every named figure of the results, at all depths."""
    if not isinstance(node, dict):
        return []
    return [*node.items(), *(pair for value in node.values() for pair in figures(value))]
