"""Bearer keys, from the predictor's kind of file, which holds only their hashes.

A reader of its own: the predictor's comes with its metrics, its errors and its limits of pictures,
which this program does not have. The same file works for both (docs/security.md).
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from pathlib import Path

from jobs.errors import StartError

logger = logging.getLogger(__name__)

# Names become parts of storage keys.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_ROLES = ("user", "admin")
_SECONDS_BETWEEN_READS = 1.0


class ApiKeys:
    """The keys of a file, which is reread at most once a second, on use.

    If the file becomes unreadable or invalid, the last good keys stay in force.
    """

    def __init__(self, file: Path) -> None:
        """Read the file.

        Raises:
            StartError: it cannot be read or is not valid.
        """
        self._file = file
        self._problem = ""
        try:
            self._bytes = file.read_bytes()
            self._names = parse(self._bytes)
        except (OSError, ValueError) as error:
            raise StartError(f"api_keys_file {file}: {_reason(error)}") from None
        self._read_at = time.monotonic()

    def name_of(self, token: str) -> str | None:
        """The name of a key that a caller sent, or None if it is not in the file.

        Compares with every key in constant time, so that the time reveals nothing about them.
        """
        if time.monotonic() >= self._read_at + _SECONDS_BETWEEN_READS:
            self._read_again()
        digest = hashlib.sha256(token.encode()).digest()
        found = [name for key, name in self._names.items() if hmac.compare_digest(key, digest)]
        return found[0] if found else None

    def _read_again(self) -> None:
        """Compare bytes, not times: the kubelet changes the link to a mounted file."""
        self._read_at = time.monotonic()
        try:
            read = self._file.read_bytes()
            if read != self._bytes:
                self._names = parse(read)
                self._bytes = read
                logger.info("api_keys_file %s: changed", self._file)
            problem = ""
        except (OSError, ValueError) as error:
            problem = _reason(error)
        # Log a problem when it appears, not on every read.
        if problem and problem != self._problem:
            message = "api_keys_file %s: %s; the last good keys stay in force"
            logger.error(message, self._file, problem)
        self._problem = problem


def parse(content: bytes) -> dict[bytes, str]:
    """Names by SHA-256 digest, from lines of ``name role digest`` and limits of the predictor.

    Raises:
        ValueError: names the line and the reason, and never quotes a key.
    """
    names: dict[bytes, str] = {}
    for number, line in enumerate(content.decode("utf-8-sig").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        digest, name = _key(number, line)
        if digest in names:
            raise ValueError("contains one key twice")
        names[digest] = name
    if not names:
        raise ValueError("contains no keys")
    return names


def _key(number: int, line: str) -> tuple[bytes, str]:
    name, role, digest = [*line.split(), "", ""][:3]
    if not _NAME.fullmatch(name):
        raise ValueError(f"line {number}: the name must be letters, digits, '.', '_', '@' or '-'")
    if role not in _ROLES:
        raise ValueError(f"line {number}: the role must be user or admin")
    if not _DIGEST.fullmatch(digest):
        raise ValueError(
            f"line {number}: the third word must be the SHA-256 digest of the key, 64 hex digits"
        )
    return bytes.fromhex(digest), name


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"is not valid UTF-8 at byte {error.start}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
