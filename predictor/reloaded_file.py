"""A file that is parsed again when it changes, such as a mounted Secret or ConfigMap."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextvars import Context
from pathlib import Path
from typing import Generic, TypeVar

from prometheus_client import Counter

from predictor.errors import ModelLoadError

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_READS = 1.0

Content = TypeVar("Content")


class ReloadedFile(Generic[Content]):
    """Rereads its file at most once a second, on use; any thread may use it.

    If the file becomes unreadable or invalid, the failure is logged and counted, and the last good
    content stays in force: an editing mistake must neither open nor close the server.
    """

    def __init__(
        self,
        file: Path,
        parse: Callable[[bytes], Content],
        *,
        setting: str,
        kind: str,
        failures: Counter,
    ) -> None:
        """Read the file. ``parse`` raises ``ValueError``; ``kind`` names the content in the log.

        Raises:
            ModelLoadError: the file cannot be read or is not valid.
        """
        self._file = file
        self._parse = parse
        self._setting, self._kind = setting, kind
        self._failures = failures
        self._lock = threading.Lock()
        self._problem = ""
        try:
            self._bytes = file.read_bytes()
            self._content = parse(self._bytes)
        except (OSError, ValueError) as error:
            raise ModelLoadError(f"{setting} {file}: {_reason(error)}") from None
        self._read_at = time.monotonic()

    @property
    def content(self) -> Content:
        """The content of the file, or the last good one."""
        with self._lock:
            if time.monotonic() >= self._read_at + _SECONDS_BETWEEN_READS:
                # Without the request that happens to read it: the log would blame that request.
                Context().run(self._read_again)
            return self._content

    def _read_again(self) -> None:
        """Compare bytes, not times: the kubelet changes the link to a mounted file."""
        self._read_at = time.monotonic()
        try:
            read = self._file.read_bytes()
            if read != self._bytes:
                self._content = self._parse(read)
                self._bytes = read
                logger.info("%s %s: changed", self._setting, self._file)
        except (OSError, ValueError) as error:
            self._failures.inc()
            self._log_once(_reason(error))
        else:
            self._problem = ""

    def _log_once(self, problem: str) -> None:
        """Log a problem when it appears, not on every read."""
        if problem != self._problem:
            logger.error(
                "%s %s: %s; the last good %s stays in force",
                self._setting,
                self._file,
                problem,
                self._kind,
            )
            self._problem = problem


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"is not valid UTF-8 at byte {error.start}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
