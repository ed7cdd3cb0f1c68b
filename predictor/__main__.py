"""``python -m predictor``: read the settings, wire the parts, serve."""

from __future__ import annotations

import sys

from predictor.arguments import parse_arguments
from predictor.errors import ModelLoadError
from predictor.logs import configure_logging
from predictor.server import DiffusionServer


def main() -> int:
    """Serve until told to stop; the exit status is 1 where the model does not load."""
    settings, flags = parse_arguments()
    configure_logging()
    try:
        DiffusionServer(
            flags.model_name, settings, http_port=flags.http_port, enable_grpc=flags.enable_grpc
        ).serve()
    except ModelLoadError as error:
        print(f"predictor: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
