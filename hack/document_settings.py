"""Writes the settings tables of README.md from the settings classes; ``--check`` only looks."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic_settings import BaseSettings

ROOT = Path(__file__).resolve().parent.parent
# Run as a script, Python puts hack/ on the path and not the repository.
sys.path.insert(0, str(ROOT))

import downloader.settings  # noqa: E402
import predictor.settings  # noqa: E402

README = ROOT / "README.md"
PROGRAMS: dict[str, type[BaseSettings]] = {
    "predictor": predictor.settings.Settings,
    "downloader": downloader.settings.Settings,
}


def documented(readme: str) -> str:
    """The README with the table between each pair of markers renewed."""
    for program, settings in PROGRAMS.items():
        begin, end = f"<!-- settings of the {program} -->\n", f"<!-- /settings of the {program} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        table = begin + settings_table(settings) + end
        readme, found = pattern.subn(lambda _, table=table: table, readme)
        if found != 1:
            raise SystemExit(f"README.md needs one pair of markers {begin.strip()}")
    return readme


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
    """Write the tables, or with ``--check`` exit with 1 where they are not up to date."""
    parser = argparse.ArgumentParser(description="Write the settings tables of README.md.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on a drift")
    check = parser.parse_args(arguments).check
    before = README.read_text("utf-8")
    after = documented(before)
    if check and before != after:
        print("README.md: the settings tables are old: run `make manifests`", file=sys.stderr)
        return 1
    if not check:
        README.write_text(after, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
