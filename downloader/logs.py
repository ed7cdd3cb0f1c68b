"""What the downloader says: lines for people, or an object a line, and the kubelet's summary.

A record may carry ``event`` and ``fields``; the text form leaves them out.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from downloader.settings import Settings

logger = logging.getLogger("downloader")

# The kubelet reads no more.
_TERMINATION_LOG_BYTES = 4096


class JsonFormatter(logging.Formatter):
    """An object a line: ``time``, ``level``, ``event``, ``message``, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The object."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        document = {
            "time": time,
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "message"),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            document["trace"] = self.formatException(record.exc_info)
        return json.dumps(document)


class WithoutSecrets(logging.Formatter):
    """Another formatter's line with every secret struck out, should one ever come that far."""

    def __init__(self, formatter: logging.Formatter, secrets: Iterable[str]) -> None:
        super().__init__()
        self._formatter = formatter
        self._secrets = tuple(filter(None, secrets))

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = self._formatter.format(record)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line


def configure_logs(log_format: str, secrets: Iterable[str]) -> None:
    """Send the log to stderr in the form that was asked for."""
    text = logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    formatter = JsonFormatter() if log_format == "json" else text
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(WithoutSecrets(formatter, secrets))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logger.setLevel(logging.INFO)


def shows_bar(settings: Settings) -> bool:
    """Whether progress is a bar."""
    return settings.log_format == "auto" and sys.stderr.isatty()


def tell_error(message: str, code: int, log_format: str) -> None:
    """The last line of a run that failed."""
    if log_format == "json":
        fields = {"exit_code": code}
        logger.error("%s", message, extra={"event": "error", "fields": fields})
    else:
        print(f"error: {message}", file=sys.stderr)


def write_termination_log(path: Path, summary: str) -> None:
    """Leave ``summary`` where the kubelet reads it; elsewhere there is no such file."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    except OSError:
        return
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(summary.encode()[:_TERMINATION_LOG_BYTES])
