"""Logging: our loggers beside KServe's, on standard error, in KServe's form."""

from __future__ import annotations

import logging
import os
import re

from kserve.logging import KSERVE_LOGGER_DATE_FORMAT, KSERVE_LOGGER_FORMAT, KSERVE_TRACE_LOGGER_NAME

# What a kubelet, KServe and Prometheus ask every few seconds.
_PROBES = re.compile(
    r"/|/metrics|/v2/health/\w+|/v1/models(/[^/:]+)?|/v2/models/[^/]+/ready", re.ASCII
)


def configure_logging() -> None:
    """Show our messages from INFO on; KServe configures only its own loggers and uvicorn's.

    What drowns them is left out: probes, and KServe's two lines for each response, whose times the
    metrics have.
    """
    # Warns at each start that torchvision is absent, for image processors that nobody asks for.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(KSERVE_LOGGER_FORMAT, KSERVE_LOGGER_DATE_FORMAT))
    ours = logging.getLogger("predictor")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    logging.getLogger("uvicorn.access").addFilter(_is_no_probe)
    logging.getLogger(KSERVE_TRACE_LOGGER_NAME).addFilter(_is_no_timing)


def _is_no_probe(record: logging.LogRecord) -> bool:
    # Uvicorn's arguments: client, method, path with query, HTTP version, status.
    _, method, path, *_ = record.args or (None, "", "")
    return method != "GET" or not _PROBES.fullmatch(str(path).partition("?")[0])


def _is_no_timing(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("kserve.io.")
