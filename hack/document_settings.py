"""Writes the settings tables of README.md from the settings classes; ``--check`` only looks."""

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

README = ROOT / "README.md"
# The settings classes of each program, one for each verb if it has verbs.
PROGRAMS: dict[str, Sequence[type[BaseSettings]]] = {
    "predictor": [predictor.settings.Settings],
    "downloader": list(downloader.settings.VERBS.values()),
}


def documented(readme: str) -> str:
    """The README with the table between each pair of markers renewed."""
    for program, settings in PROGRAMS.items():
        readme = renewed(readme, f"settings of the {program}", settings_table(settings))
    return readme


def settings_table(classes: Sequence[type[BaseSettings]]) -> str:
    """A Markdown table: flag, environment variable, default, description."""
    prefix = classes[0].model_config["env_prefix"]
    fields = {name: field for one in classes for name, field in one.model_fields.items()}
    rows = ["| flag | environment | default | what it does |", "| --- | --- | --- | --- |"]
    for name, field in fields.items():
        default = "required" if field.is_required() else f"`{field.default}`"
        default = "empty" if default == "``" else default
        rows.append(f"| `--{name}` | `{prefix}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """See ``write``."""
    return write({README: documented}, "the settings tables", arguments)


if __name__ == "__main__":
    sys.exit(main())
