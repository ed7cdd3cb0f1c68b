"""The command line: KServe's flags and one flag for every setting of ours."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from kserve.model_server import parser as kserve_parser
from pydantic import ValidationError

from predictor.settings import Settings


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[Settings, argparse.Namespace]:
    """Read flags, then the environment; the namespace holds KServe's flags.

    A wrong flag or value ends the process with status 2 and one sentence.
    """
    parser = argparse.ArgumentParser(prog="python -m predictor", parents=[kserve_parser])
    # Nothing here speaks gRPC's v2 tensors, and Knative routes one port.
    parser.set_defaults(enable_grpc=False, model_name="stable-diffusion")
    for name, field in Settings.model_fields.items():
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=field.description)
    flags = parser.parse_args(argv)
    if flags.workers != 1:
        parser.error("--workers: the engine batches in one process; scale with replicas instead")
    given = {name: value for name, value in vars(flags).items() if name in Settings.model_fields}
    try:
        return Settings(**given), flags
    except ValidationError as error:
        detail = error.errors()[0]
        parser.error(f"--{detail['loc'][0]}: {detail['input']!r}: {detail['msg']}")
