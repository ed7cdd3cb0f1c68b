"""``python -m jobs``: read the flags and serve."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from jobs.errors import StartError
from jobs.server import serve
from jobs.settings import Settings

_FORMAT = "%(asctime)s.%(msecs)03d %(process)s %(name)s %(levelname)s %(message)s"


class _Parser(argparse.ArgumentParser):
    """Reports an error without the usage of all flags, which would hide it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"jobs: error: {message}\n")


def parse_arguments(argv: Sequence[str] | None = None) -> Settings:
    """Read the settings from flags, else from the environment.

    An unknown flag or an invalid value ends the process with status 2 and one sentence.
    """
    parser = _Parser(prog="python -m jobs", allow_abbrev=False)
    for name, field in Settings.model_fields.items():
        # With underscores or dashes, as the predictor's flags.
        spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        help_text = (field.description or "").replace("%", "%%")
        parser.add_argument(*spellings, dest=name, default=argparse.SUPPRESS, help=help_text)
    given = vars(parser.parse_args(argv))
    try:
        return Settings(**given)
    except ValidationError as error:
        parser.error(_reason(error.errors()[0]))


def _reason(detail: ErrorDetails) -> str:
    reason = detail["msg"].replace("Input should", "must").removeprefix("Value error, ")
    if not detail["loc"]:
        return reason
    name = str(detail["loc"][0])
    if detail["type"] == "string_pattern_mismatch":
        reason = f"is not valid. {Settings.model_fields[name].description}"
    return f"--{name}: {detail['input']!r}: {reason}"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal; the exit status is 1 if the program cannot start, or has a bug."""
    settings = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format=_FORMAT, datefmt="%Y-%m-%d %H:%M:%S")
    # One line per call of the predictor and per wait for it would hide the others.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        return 0 if serve(settings) else 1
    except StartError as error:
        print(f"jobs: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
