"""The sections of ``CHANGELOG.md``, in the format of Keep a Changelog 1.1.0."""

from __future__ import annotations

import re
from dataclasses import dataclass

UNRELEASED = "Unreleased"
# Text such as `[YANKED]` may follow: a heading that does not match would join two sections.
_HEADING = re.compile(r"^## \[?([^\]\s]+)\]?(?: - (\S+))?.*$", re.MULTILINE)
_KIND = re.compile(r"^### (\w+)[ \t]*$", re.MULTILINE)
_ENTRY = re.compile(r"^- (.+(?:\n[ \t]+\S.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Change:
    """One entry: its kind, such as ``added``, and its text on one line."""

    kind: str
    description: str


@dataclass(frozen=True)
class Section:
    """The changes of one version; ``date`` is empty if the heading has none."""

    version: str
    date: str
    changes: tuple[Change, ...]


def sections(changelog: str) -> dict[str, Section]:
    """The sections by version, the newest first; changes to come are under ``UNRELEASED``."""
    _, *parts = _HEADING.split(changelog)
    triples = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    return {
        version: Section(version, date or "", _changes(content))
        for version, date, content in triples
    }


def _changes(content: str) -> tuple[Change, ...]:
    _, *parts = _KIND.split(content)
    return tuple(
        Change(kind.lower(), " ".join(text.split()))
        for kind, entries in zip(parts[::2], parts[1::2], strict=True)
        for text in _ENTRY.findall(entries)
    )
