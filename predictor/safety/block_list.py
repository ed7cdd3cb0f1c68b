"""The block list: forbidden terms in prompts, from a file that may change at any time."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import NamedTuple

from predictor.errors import ModelLoadError
from predictor.metrics import BLOCK_LIST_FAILURES
from predictor.requests import PROMPT_LAYER, SafetyAction
from predictor.safety.words import spelled_out, words_of

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_READS = 1.0


class Terms(NamedTuple):
    """Terms as sequences of words.

    ``most_words`` is the largest number of words in a term, ``longest`` the length in characters of
    the longest first word.
    """

    terms: frozenset[tuple[str, ...]]
    most_words: int
    longest: int

    def are_in(self, text: str) -> bool:
        """Whether ``text`` contains one of the terms as whole words."""
        words = words_of(text)
        for size in range(1, self.most_words + 1):
            if any(words[at : at + size] in self.terms for at in range(len(words) - size + 1)):
                return True
        return any((word,) in self.terms for word in spelled_out(words, self.longest))


class BlockList:
    """A ``SafetyLayer`` for prompts that rereads its file at most once a second, on use.

    If the file becomes unreadable or invalid, the failure is logged and counted, and the last good
    list stays in force: an editing mistake must not disable the layer.
    """

    name = PROMPT_LAYER

    def __init__(self, action: SafetyAction, file: Path) -> None:
        """Read the file.

        Raises:
            ModelLoadError: the file cannot be read or is not a valid list.
        """
        self.action = action
        self._file = file
        self._lock = threading.Lock()
        self._problem = ""
        try:
            self._content = file.read_bytes()
            self._terms = parse(self._content)
        except (OSError, ValueError) as error:
            raise ModelLoadError(f"block_list_file {file}: {_reason(error)}") from None
        self._read_at = time.monotonic()

    def fires_at(self, subject: str) -> bool:
        """Whether the prompt contains a term of the list."""
        with self._lock:
            if time.monotonic() >= self._read_at + _SECONDS_BETWEEN_READS:
                self._read_again()
            terms = self._terms
        return terms.are_in(subject)

    def _read_again(self) -> None:
        """Reread a changed file. Compare bytes, not times: a ConfigMap's file is a symlink."""
        self._read_at = time.monotonic()
        try:
            content = self._file.read_bytes()
            if content != self._content:
                self._terms = parse(content)
                self._content = content
                logger.info("the block list changed: %d terms", len(self._terms.terms))
        except (OSError, ValueError) as error:
            BLOCK_LIST_FAILURES.inc()
            self._log_once(_reason(error))
        else:
            self._problem = ""

    def _log_once(self, problem: str) -> None:
        """Log a problem when it appears, not on every read."""
        if problem != self._problem:
            logger.error(
                "block_list_file %s: %s; the last good list stays in force", self._file, problem
            )
            self._problem = problem


def parse(content: bytes) -> Terms:
    """Parse a UTF-8 file with one term per line; ``#`` starts a comment line.

    Raises:
        ValueError: the file is not UTF-8, a line has no letters or digits, or there are no terms.
    """
    lines = enumerate(content.decode("utf-8-sig").splitlines(), 1)
    terms = {number: words_of(line) for number, line in lines if _is_term(line)}
    for number, words in terms.items():
        if not words:
            raise ValueError(f"line {number} has no letters or digits and cannot match")
    if not terms:
        raise ValueError("contains no terms; to use no block list, set block_list=off")
    return Terms(
        frozenset(terms.values()),
        max(len(words) for words in terms.values()),
        max(len(words[0]) for words in terms.values()),
    )


def _is_term(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"is not valid UTF-8 at byte {error.start}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
