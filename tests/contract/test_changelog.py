"""The parser of the changelog."""

from __future__ import annotations

from pathlib import Path

import pytest

from hack.changelog import UNRELEASED, Change, Section, sections

ROOT = Path(__file__).resolve().parent.parent.parent
KINDS = {"added", "changed", "deprecated", "removed", "fixed", "security"}
SAMPLE = """# Changelog

Words before the first version.

## Unreleased

## 1.1.0 - 2026-01-02

### Added

- One, which continues
  on a second line.
- Two.

### Fixed

- Three.

## [1.0.0] - 2025-12-31
"""


def test_sections_have_version_date_and_changes() -> None:
    assert list(sections(SAMPLE).values()) == [
        Section(UNRELEASED, "", ()),
        Section(
            "1.1.0",
            "2026-01-02",
            (
                Change("added", "One, which continues on a second line."),
                Change("added", "Two."),
                Change("fixed", "Three."),
            ),
        ),
        Section("1.0.0", "2025-12-31", ()),
    ]


@pytest.mark.parametrize(
    ("heading", "date"),
    [
        ("## [1.1.0] - 2026-01-02 [YANKED]", "2026-01-02"),
        ("## [1.1.0](https://example.com/compare) - 2026-01-02", ""),
        ("## 1.1.0 (2026-01-02)", ""),
    ],
)
def test_an_unusual_heading_begins_a_section_too(heading: str, date: str) -> None:
    found = sections(SAMPLE.replace("## 1.1.0 - 2026-01-02", heading))

    assert list(found) == [UNRELEASED, "1.1.0", "1.0.0"]
    assert found[UNRELEASED].changes == ()
    assert found["1.1.0"].date == date


def test_every_entry_of_this_changelog_is_read() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    changes = [change for section in sections(text).values() for change in section.changes]

    assert {change.kind for change in changes} <= KINDS
    assert len(changes) == sum(line.startswith("- ") for line in text.splitlines())
