"""Logs to standard error in KServe's format."""

from __future__ import annotations

import logging
import os
import re

from kserve.logging import KSERVE_LOGGER_DATE_FORMAT, KSERVE_LOGGER_FORMAT, KSERVE_TRACE_LOGGER_NAME

# The routes that the kubelet, KServe and Prometheus call every few seconds.
_PROBES = re.compile(
    r"/|/metrics|/v2/health/\w+|/v1/models(/[^/:]+)?|/v2/models/[^/]+/ready", re.ASCII
)


def configure_logging(*, with_durations: bool = True) -> None:
    """Show messages of this package from INFO up; KServe configures only its own and uvicorn's.

    Excludes probes and KServe's two timing lines per response; the metrics have the times. KServe's
    line with the durations of a request is included if ``with_durations``.
    """
    # transformers warns at each start that torchvision is missing, which nothing here uses.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(KSERVE_LOGGER_FORMAT, KSERVE_LOGGER_DATE_FORMAT))
    ours = logging.getLogger("predictor")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    logging.getLogger("uvicorn.access").addFilter(_is_not_a_probe)
    trace = logging.getLogger(KSERVE_TRACE_LOGGER_NAME)
    trace.addFilter(_is_not_timing)
    trace.disabled = not with_durations


def _is_not_a_probe(record: logging.LogRecord) -> bool:
    # Uvicorn's arguments: client, method, path with query, HTTP version, status.
    _, method, path, *_ = record.args or (None, "", "")
    return method != "GET" or not _PROBES.fullmatch(str(path).partition("?")[0])


def _is_not_timing(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("kserve.io.")
