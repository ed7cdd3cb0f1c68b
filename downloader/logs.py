"""Log lines as text or JSON, the results on stdout, and the kubelet's termination message.

A record may carry ``event`` and ``fields``, which only the JSON form shows.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from downloader.errors import ClosedOutputError

logger = logging.getLogger("downloader")

# The kubelet's limit.
_TERMINATION_LOG_BYTES = 4096


class JsonFormatter(logging.Formatter):
    """One object per line: ``time``, ``level``, ``event``, ``message``, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The object as one line."""
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
    """Masks every secret in the line of another formatter, as a last line of defence."""

    def __init__(self, formatter: logging.Formatter, secrets: Iterable[str]) -> None:
        super().__init__()
        self._formatter = formatter
        self._secrets = tuple(filter(None, secrets))

    def format(self, record: logging.LogRecord) -> str:
        """The masked line."""
        line = self._formatter.format(record)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line


def configure_logs(log_format: str, secrets: Iterable[str]) -> None:
    """Send the log to stderr in ``log_format``."""
    text = logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    formatter = JsonFormatter() if log_format == "json" else text
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(WithoutSecrets(formatter, secrets))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logger.setLevel(logging.INFO)


def print_result(log_format: str, text: str, document: Mapping[str, object]) -> None:
    """Print ``text`` on stdout, or ``document`` as one line of JSON."""
    print_line(json.dumps(document) if log_format == "json" else text)


def print_line(text: str) -> None:
    """Print a line on stdout.

    Raises:
        ClosedOutputError: the other end of the pipe is closed.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError as error:
        # The line is still in the buffer; without this, the flush at exit fails too.
        # https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ClosedOutputError("interrupted: the program that reads the output ended") from error


def report_error(message: str, code: int, log_format: str) -> None:
    """Write the last line of a failed run."""
    if log_format == "json":
        fields = {"exit_code": code}
        logger.error("%s", message, extra={"event": "error", "fields": fields})
    else:
        print(f"error: {message}", file=sys.stderr)


def write_termination_log(path: Path, summary: str) -> None:
    """Write ``summary`` for the kubelet; does nothing where ``path`` does not exist."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    except OSError:
        return
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(summary.encode()[:_TERMINATION_LOG_BYTES])
