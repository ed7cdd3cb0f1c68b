"""Logging: our loggers beside KServe's, on standard error, in KServe's form."""

from __future__ import annotations

import logging

from kserve.logging import KSERVE_LOGGER_DATE_FORMAT, KSERVE_LOGGER_FORMAT


def configure_logging() -> None:
    """Show our messages from INFO on; KServe configures only its own loggers and uvicorn's."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(KSERVE_LOGGER_FORMAT, KSERVE_LOGGER_DATE_FORMAT))
    ours = logging.getLogger("predictor")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
