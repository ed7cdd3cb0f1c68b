"""Both forms of the downloader's log update the bar; every other line is a message."""

from __future__ import annotations

import json

import pytest

from deploy.progress_log import parse_line

GB = 1_000_000_000


@pytest.mark.parametrize(
    ("line", "done", "total", "rate", "left"),
    [
        (
            "12:00:05 sdxl: 1.20 of 6.94 GB (17 %), 85.3 MB/s, 67 s left",
            1.2 * GB,
            6.94 * GB,
            85.3e6,
            "67 s left",
        ),
        (
            "12:00:05 sdxl: 0.02 of 6.94 GB (0 %), 1.3 MB/s, 5,323 s left",
            0.02 * GB,
            6.94 * GB,
            1.3e6,
            "5,323 s left",
        ),
        (
            "12:00:05 sdxl: 0.02 of 6.94 GB (0 %), 0.0 MB/s, stalled",
            0.02 * GB,
            6.94 * GB,
            0,
            "stalled",
        ),
        ("sdxl: 512 B of 1.5 kB (34 %)", 512, 1500, None, ""),
        ("12:00:05 sdxl: 900 MB of 6.94 GB (12 %), 0 B/s", 0.9 * GB, 6.94 * GB, 0, ""),
    ],
)
def test_text(line: str, done: float, total: float, rate: float | None, left: str) -> None:
    seen = parse_line(line)

    assert seen.is_progress
    assert (seen.model, seen.done_bytes, seen.total_bytes) == ("sdxl", done, total)
    assert seen.bytes_per_second == rate
    assert seen.left == left


def test_json() -> None:
    entry = {
        "time": "2026-11-21T12:00:05Z",
        "level": "info",
        "event": "progress",
        "message": "sdxl: 1.20 of 6.94 GB",
        "model": "sdxl",
        "done_bytes": 1_200_000_000,
        "total_bytes": 6_940_000_000,
        "bytes_per_second": 85_300_000.0,
        "eta_seconds": 67.3,
    }

    seen = parse_line(json.dumps(entry))

    assert (seen.model, seen.done_bytes, seen.total_bytes) == ("sdxl", 1_200_000_000, 6_940_000_000)
    assert (seen.bytes_per_second, seen.left) == (85_300_000.0, "67 s left")


def test_json_without_an_estimate() -> None:
    seen = parse_line(
        '{"event": "progress", "model": "a", "done_bytes": 1, "total_bytes": 2, '
        '"bytes_per_second": null, "eta_seconds": null, "message": "a"}'
    )

    assert seen.is_progress
    assert seen.left == "stalled"


# Deeper than the parser's recursion.
DEEP = '{"a":' * 5000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("error: it is gated", "error: it is gated"),
        ("12:00:00 sdxl: 3 files, 6.94 GB", "12:00:00 sdxl: 3 files, 6.94 GB"),
        ('{"event": "published", "message": "published"}', "published"),
        ("{no json", "{no json"),
        ('{"odd": 1}', '{"odd": 1}'),
        (DEEP, DEEP),
    ],
)
def test_a_line_without_progress_is_a_message(line: str, message: str) -> None:
    seen = parse_line(line)

    assert not seen.is_progress
    assert seen.message == message
