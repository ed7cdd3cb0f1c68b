"""The figures of docs/downloads.md are those that the benchmarks printed."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_document_holds_the_figures_of_the_bench() -> None:
    result = json.loads((ROOT / "bench" / "results" / "download.json").read_text())
    text = (ROOT / "docs" / "downloads.md").read_text("utf-8").partition("## How fast")[2]
    text = " ".join(text.partition("\n## ")[0].split())

    assert f"medians of {result['rounds']} rounds" in text
    assert f"{result['first_predictor_ready_byte_seconds']:.2f} s until the predictor" in text
    assert f"{result['curl_and_sha256sum_seconds']:.2f} s for the same bytes" in text
    assert f"Peak memory is {result['peak_rss_megabytes']} MB" in text
    assert f"hashes {result['verify_bytes_per_second'] / 1e9:.2f} GB in a second" in text
    assert f"{result['verify_to_sha256sum']:.2f} of the time" in text


def test_the_downloader_adds_little_to_the_transfer() -> None:
    result = json.loads((ROOT / "bench" / "results" / "download.json").read_text())

    assert result["fetch_to_curl"] <= 1.15
    assert result["peak_rss_megabytes"] <= 250


def test_kills_and_lies_left_one_good_revision_on_every_volume() -> None:
    result = json.loads((ROOT / "bench" / "results" / "download_faults.json").read_text())
    text = " ".join((ROOT / "docs" / "downloads.md").read_text("utf-8").split())

    assert result["violations"] == []
    assert result["good_volumes"] == result["volumes"]
    assert f"and {result['kills']} kills" in text
    assert result["processes_at_once"] == 3
    assert "with three downloads of one name" in text
    # The unfinished files of all killed runs together are never more than one model.
    assert result["largest_leftover_to_model"] <= 1.01
