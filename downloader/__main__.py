"""``python -m downloader``: settings in, one model published, an exit code out."""

from __future__ import annotations

import logging
import sys

from downloader.cli import read_settings
from downloader.download import download_model
from downloader.errors import DownloadError, exit_code
from downloader.sources import open_source
from modelstore import ModelStoreError


def main() -> int:
    """Log one line per stage on stderr, print the outcome on stdout."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("downloader").setLevel(logging.INFO)
    try:
        settings = read_settings(sys.argv[1:])
        source = open_source(settings.source, settings.max_workers)
        print(download_model(source, settings))
    except (DownloadError, ModelStoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_code(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
