"""The log on standard error: one form, text or JSON, for the server and its libraries."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import kserve.logging
from kserve.logging import (
    KSERVE_LOGGER_DATE_FORMAT,
    KSERVE_LOGGER_NAME,
    KSERVE_TRACE_LOGGER_NAME,
)
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from predictor.request_context import current_request

logger = logging.getLogger(__name__)

_TEXT = (
    "%(asctime)s.%(msecs)03d %(process)s %(name)s %(levelname)s "
    "[%(filename)s:%(funcName)s():%(lineno)s] %(request)s%(message)s"
)
_OURS = "predictor"
# Loggers whose handlers KServe and the libraries add.
_SERVER_LOGGERS = (KSERVE_LOGGER_NAME, KSERVE_TRACE_LOGGER_NAME, "uvicorn")
# Lines that many connections cause: the logger, and the start of the message.
_FLOODS = (
    ("asyncio", "socket.accept() out of system resource"),
    ("predictor.edge.connection", "closed a new connection"),
    ("predictor.edge.connection", "closed the oldest silent connection"),
)
_FLOOD_SECONDS = 60.0
_LIBRARY_LOGGERS = ("diffusers", "transformers")
# Warnings of a family's pipeline quote the part of a prompt that the text encoder truncates.
_FAMILY_LOGGER = re.compile(r"diffusers\.pipelines\.\w+\..*")


def configure_logging(
    log_format: str = "text", *, log_prompts: bool = False, with_durations: bool = True
) -> None:
    """Write every log line in ``log_format``, ``text`` or ``json``.

    KServe writes two lines with times per response, which are left out: the metrics have the times.
    KServe's line with the durations of a request is included if ``with_durations``.
    """
    # transformers warns at each start that torchvision is missing, which nothing here uses.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # For the levels, which an environment variable of KServe sets. First, because it does nothing
    # once the root has a handler.
    kserve.logging.configure_logging()
    handler = _handler(log_format, log_prompts=log_prompts)
    logging.getLogger().addHandler(handler)
    _replace_handlers(_OURS, handler)
    logging.getLogger(_OURS).setLevel(logging.INFO)
    for name in _SERVER_LOGGERS:
        _replace_handlers(name, handler)
    # The access log is our own (``edge/telemetry.py``); uvicorn does not have the durations.
    logging.getLogger("uvicorn.access").handlers.clear()
    trace = logging.getLogger(KSERVE_TRACE_LOGGER_NAME)
    trace.addFilter(_is_not_timing)
    trace.disabled = not with_durations
    for name, message in _FLOODS:
        logging.getLogger(name).addFilter(_OncePerMinute(message))
    # Each export that fails logs one error; its retries need no line of their own.
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    if log_format == "json":
        logging.captureWarnings(True)
        _log_uncaught_exceptions()


def adopt_library_loggers() -> None:
    """Send the lines of diffusers and transformers to our handler; call it once both are imported.

    Each adds a handler of its own when it is imported.
    """
    for name in _LIBRARY_LOGGERS:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True


class _TextFormatter(logging.Formatter):
    """KServe's format, with the identifiers of the request in brackets."""

    def format(self, record: logging.LogRecord) -> str:
        identifiers = " ".join(_identifiers().values())
        record.request = f"[{identifiers}] " if identifiers else ""
        return super().format(record)


class _JsonFormatter(JsonFormatter):
    """One object per line: ``time``, ``level``, ``logger``, ``message`` and the line's fields."""

    def __init__(self) -> None:
        # Uvicorn repeats its messages with colours.
        reserved = [*RESERVED_ATTRS, "color_message", "request"]
        super().__init__(["message"], rename_fields={"exc_info": "trace"}, reserved_attrs=reserved)

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        log_data |= {"time": time, "level": record.levelname.lower(), "logger": record.name}
        super().add_fields(log_data, record, message_dict)
        log_data |= _identifiers()


def _identifiers() -> dict[str, str]:
    request = current_request()
    found = {"request_id": request.request_id, "trace_id": request.trace_id}
    return {name: value for name, value in found.items() if value}


def _handler(log_format: str, *, log_prompts: bool) -> logging.Handler:
    text = _TextFormatter(_TEXT, KSERVE_LOGGER_DATE_FORMAT)
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if log_format == "json" else text)
    if not log_prompts:
        handler.addFilter(_quotes_no_prompt)
    return handler


def _replace_handlers(name: str, handler: logging.Handler) -> None:
    named = logging.getLogger(name)
    named.handlers[:] = [handler]
    named.propagate = False


def _log_uncaught_exceptions() -> None:
    """Log what ends the process or a thread, in place of the interpreter's trace of many lines."""

    def uncaught(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            logger.critical("uncaught exception", exc_info=(kind, error, trace))

    def uncaught_in_thread(found: threading.ExceptHookArgs) -> None:
        if found.exc_value is not None:
            uncaught(found.exc_type, found.exc_value, found.exc_traceback)

    sys.excepthook = uncaught
    threading.excepthook = uncaught_in_thread


def _quotes_no_prompt(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or not _FAMILY_LOGGER.fullmatch(record.name)


class _OncePerMinute(logging.Filter):
    """Passes one line per minute of those that start with ``message``, and all others."""

    def __init__(self, message: str) -> None:
        super().__init__()
        self._message = message
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if not str(record.msg).startswith(self._message):
            return True
        now = time.monotonic()
        is_due = now >= self._next
        if is_due:
            self._next = now + _FLOOD_SECONDS
        return is_due


def _is_not_timing(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("kserve.io.")
