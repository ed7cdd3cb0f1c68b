"""Writes the tables of docs/settings.md from the settings classes; ``--check`` only looks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic_settings import BaseSettings

ROOT = Path(__file__).resolve().parent.parent
# Run as a script, Python puts hack/ on the path and not the repository.
sys.path.insert(0, str(ROOT))

import downloader.settings  # noqa: E402
import predictor.settings  # noqa: E402
from hack.marked_tables import renewed, write  # noqa: E402

DOCUMENT = ROOT / "docs" / "settings.md"
PROGRAMS: dict[str, type[BaseSettings]] = {
    "predictor": predictor.settings.Settings,
    "downloader": downloader.settings.Settings,
}


def documented(document: str) -> str:
    """The document with the table between each pair of markers renewed."""
    for program, settings in PROGRAMS.items():
        document = renewed(document, f"settings of the {program}", settings_table(settings))
    return document


def settings_table(settings: type[BaseSettings]) -> str:
    """A Markdown table: flag, environment variable, default, description."""
    prefix = settings.model_config["env_prefix"]
    rows = ["| flag | environment | default | what it does |", "| --- | --- | --- | --- |"]
    for name, field in settings.model_fields.items():
        default = "required" if field.is_required() else f"`{field.default}`"
        default = "empty" if default == "``" else default
        rows.append(f"| `--{name}` | `{prefix}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """See ``write``."""
    return write({DOCUMENT: documented}, "the settings tables", arguments)


if __name__ == "__main__":
    sys.exit(main())
