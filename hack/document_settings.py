"""Write the tables of docs/settings.md from the settings classes; ``--check`` only compares."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic_settings import BaseSettings

ROOT = Path(__file__).resolve().parent.parent
# A script has its own folder on the import path, not the repository's root.
sys.path.insert(0, str(ROOT))

import downloader.settings  # noqa: E402
import jobs.settings  # noqa: E402
import predictor.settings  # noqa: E402
from hack.marked_tables import markdown_table, renewed, write  # noqa: E402

DOCUMENT = ROOT / "docs" / "settings.md"
# The settings classes of each program, one per subcommand if it has any.
PROGRAMS: dict[str, Sequence[type[BaseSettings]]] = {
    "predictor": [predictor.settings.Settings],
    "downloader": list(downloader.settings.VERBS.values()),
    "jobs": [jobs.settings.Settings],
}


def documented(document: str) -> str:
    """The document with its generated tables updated."""
    for program, settings in PROGRAMS.items():
        document = renewed(document, f"settings of the {program}", settings_table(settings))
    return document


def settings_table(classes: Sequence[type[BaseSettings]]) -> str:
    """A Markdown table of flags, environment variables, defaults and descriptions."""
    prefix = classes[0].model_config["env_prefix"]
    fields = {name: field for one in classes for name, field in one.model_fields.items()}
    rows = [("flag", "environment", "default", "what it does")]
    for name, field in fields.items():
        default = "required" if field.is_required() else _in_words(field.default)
        variable = f"`{prefix}{name.upper()}`"
        rows.append((f"`--{name}`", variable, default, field.description or ""))
    return markdown_table(rows)


def _in_words(default: object) -> str:
    """A default in the form of an environment variable's value."""
    match default:
        case None:
            return "unset"
        case "":
            return "empty"
        case bool():
            return f"`{str(default).lower()}`"
    return f"`{default}`"


def main(arguments: Sequence[str] | None = None) -> int:
    """See ``write``."""
    return write({DOCUMENT: documented}, "the settings tables", arguments)


if __name__ == "__main__":
    sys.exit(main())
