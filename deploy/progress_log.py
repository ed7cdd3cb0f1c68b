"""Parse the progress from a line of the downloader's log, text or JSON; pure functions."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_UNITS = {"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
# 12:00:05 sdxl: 1.20 of 6.94 GB (17 %), 85.3 MB/s, 67 s left
_TEXT = re.compile(
    r"(?:\d\d:\d\d:\d\d )?(?P<model>[^\s:]+): "
    r"(?P<done>[\d.]+)(?: (?P<done_unit>[kKMGT]?B))? of (?P<total>[\d.]+) (?P<unit>[kKMGT]?B)\b"
    r"(?:.*?, (?P<rate>[\d.]+) (?P<rate_unit>[kKMGT]?B)/s)?"
    r"(?:.*?, (?P<left>[\d,]+ s left|stalled))?"
)


@dataclass(frozen=True)
class LogLine:
    """One line: ``message`` for people, and the bytes if it reports progress."""

    message: str
    model: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_second: float | None = None
    left: str = ""

    @property
    def is_progress(self) -> bool:
        """Whether it updates a bar."""
        return self.total_bytes > 0


def parse_line(line: str) -> LogLine:
    """Parse a line of text or JSON; a line in any other form is a message."""
    if line.startswith("{"):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            return LogLine(line)
        return _from_json(entry, line)
    match = _TEXT.match(line)
    if not match:
        return LogLine(line)
    unit = match["unit"]
    return LogLine(
        line,
        match["model"],
        _bytes(match["done"], match["done_unit"] or unit),
        _bytes(match["total"], unit),
        _bytes(match["rate"], match["rate_unit"]) if match["rate"] else None,
        match["left"] or "",
    )


def _from_json(entry: dict[str, object], line: str) -> LogLine:
    message = str(entry.get("message") or line)
    if entry.get("event") != "progress":
        return LogLine(message)
    rate, left = entry.get("bytes_per_second"), entry.get("eta_seconds")
    return LogLine(
        message,
        str(entry.get("model") or ""),
        int(float(str(entry.get("done_bytes") or 0))),
        int(float(str(entry.get("total_bytes") or 0))),
        float(str(rate)) if rate is not None else None,
        f"{float(str(left)):,.0f} s left" if left is not None else "stalled",
    )


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * _UNITS[unit])
