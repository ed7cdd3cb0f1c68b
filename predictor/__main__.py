"""``python -m predictor``: read the flags and serve.

The command line has KServe's flags and one flag per setting, with underscores or dashes.
"""

from __future__ import annotations

import argparse
import atexit
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from predictor.errors import ModelLoadError
from predictor.settings import Settings

if TYPE_CHECKING:
    from predictor.loading.loader import OpenEngine


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[Settings, argparse.Namespace]:
    """Read the settings and KServe's flags.

    An unknown flag or an invalid value ends the process with status 2 and one sentence.
    """
    from kserve.model_server import parser as kserve_parser

    parser = argparse.ArgumentParser(prog="python -m predictor", parents=[kserve_parser])
    # The server does not support gRPC, and Knative routes a single port.
    parser.set_defaults(enable_grpc=False, model_name="stable-diffusion")
    for name, field in Settings.model_fields.items():
        spellings = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
        parser.add_argument(
            *spellings, dest=name, default=argparse.SUPPRESS, help=field.description
        )
    flags = parser.parse_args(argv)
    if flags.workers != 1:
        parser.error("--workers: the engine batches in one process; scale with replicas instead")
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
    # KServe takes seconds to import.
    from predictor.edge.server import DiffusionServer
    from predictor.logs import configure_logging

    settings, flags = parse_arguments(argv)
    configure_logging()
    try:
        DiffusionServer(
            flags.model_name,
            settings,
            open_engine,
            http_port=flags.http_port,
            enable_grpc=flags.enable_grpc,
        ).serve()
    except ModelLoadError as error:
        print(f"predictor: {error}", file=sys.stderr)
        return 1
    return 0


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
