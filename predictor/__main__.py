"""``python -m predictor``: read the flags and serve.

The command line has KServe's flags and one flag per setting, with underscores or dashes.
"""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from predictor.errors import ModelLoadError
from predictor.imports import import_modules
from predictor.kserve_flags import add_kserve_flags, contradiction, spellings
from predictor.loading.read_ahead import read_ahead
from predictor.settings import Settings

if TYPE_CHECKING:
    from predictor.loading.loader import OpenEngine


logger = logging.getLogger("predictor")


class _Parser(argparse.ArgumentParser):
    """Reports an error without the usage of all flags, which would hide it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"predictor: error: {message}\n")


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[Settings, argparse.Namespace]:
    """Read the settings and KServe's flags.

    An unknown flag or an invalid value ends the process with status 2 and one sentence.
    """
    parser = _Parser(prog="python -m predictor", allow_abbrev=False)
    add_kserve_flags(parser)
    for name, field in Settings.model_fields.items():
        parser.add_argument(
            *spellings(name), dest=name, default=argparse.SUPPRESS, help=field.description
        )
    flags = parser.parse_args(argv)
    if reason := contradiction(flags, os.environ):
        parser.error(reason)
    given = {name: value for name, value in vars(flags).items() if name in Settings.model_fields}
    try:
        return Settings(**given), flags
    except ValidationError as error:
        detail = error.errors()[0]
        parser.error(f"--{detail['loc'][0]}: {detail['input']!r}: {_reason(detail)}")


def _reason(detail: ErrorDetails) -> str:
    if detail["type"] == "string_pattern_mismatch":
        description = Settings.model_fields[str(detail["loc"][0])].description
        return f"is not valid. {description}"
    reason, _, _ = detail["msg"].partition(", unable")
    return reason.replace("Input should", "must").removeprefix("Value error, ")


def main(argv: Sequence[str] | None = None, open_engine: OpenEngine | None = None) -> int:
    """Serve until a signal; the exit status is 1 if the model does not load.

    See ``predictor.loading.loader.load`` for ``open_engine``.
    """
    signal.signal(signal.SIGTERM, _exit)
    # Before the import of KServe, which takes seconds and reads the command line itself.
    settings, flags = parse_arguments(argv)
    read_ahead(settings)
    import_modules("predictor.edge.server")
    from predictor.edge.server import DiffusionServer
    from predictor.logs import configure_logging

    configure_logging(
        settings.log_format,
        log_prompts=settings.log_prompts,
        with_durations=flags.enable_latency_logging,
    )
    try:
        DiffusionServer(
            flags.model_name,
            settings,
            open_engine,
            http_port=flags.http_port,
            timeout_keep_alive=flags.timeout_keep_alive,
            ssl_certfile=flags.ssl_certfile,
            ssl_keyfile=flags.ssl_keyfile,
            grpc_port=flags.grpc_port if flags.enable_grpc else None,
        ).serve()
    except ModelLoadError as error:
        _report(error, settings)
        return 1
    return 0


def _report(error: ModelLoadError, settings: Settings) -> None:
    """Write the last line, which Kubernetes shows as the reason of the end."""
    if settings.log_format == "json":
        logger.critical("%s", error)
    else:
        print(f"predictor: {error}", file=sys.stderr)


def _exit(number: int, _: FrameType | None) -> None:
    """End at once, until the server handles signals: process 1 of a container has no default."""
    os._exit(128 + number)


def end_process(status: int) -> NoReturn:
    """Exit without waiting for threads: one may still load weights, or hang on the device."""
    # What ``sys.exit`` would run after it has joined all threads.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    end_process(main())
