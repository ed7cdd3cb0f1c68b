"""The block list: terms that no prompt may have, from a file that may change while it is used."""

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
    """A term is its words in a row; ``most_words`` and ``longest`` are of the largest."""

    terms: frozenset[tuple[str, ...]]
    most_words: int
    longest: int

    def are_in(self, text: str) -> bool:
        """Whether one of them is in ``text``, as whole words."""
        words = words_of(text)
        for size in range(1, self.most_words + 1):
            if any(words[at : at + size] in self.terms for at in range(len(words) - size + 1)):
                return True
        return any((word,) in self.terms for word in spelled_out(words, self.longest))


class BlockList:
    """A ``SafetyLayer`` over prompts. The file is read again, at most once a second, when asked.

    What cannot be read or used any more is logged and counted, and the last good list holds: a
    mistake in an edit must not open the gate.
    """

    name = PROMPT_LAYER

    def __init__(self, action: SafetyAction, file: Path) -> None:
        """Read the file.

        Raises:
            ModelLoadError: it cannot be read, or is no list.
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
        """Whether the prompt has a term of the list."""
        with self._lock:
            if time.monotonic() >= self._read_at + _SECONDS_BETWEEN_READS:
                self._read_again()
            terms = self._terms
        return terms.are_in(subject)

    def _read_again(self) -> None:
        """Compare the bytes, not the times: a ConfigMap's file is a link that is switched."""
        self._read_at = time.monotonic()
        try:
            content = self._file.read_bytes()
            if content != self._content:
                self._terms = parse(content)
                self._content = content
                logger.info("the block list changed: %d terms", len(self._terms.terms))
        except (OSError, ValueError) as error:
            BLOCK_LIST_FAILURES.inc()
            self._tell(_reason(error))
        else:
            self._problem = ""

    def _tell(self, problem: str) -> None:
        """Once for each problem, and not every second of it."""
        if problem != self._problem:
            logger.error("block_list_file %s: %s; the last good list holds", self._file, problem)
            self._problem = problem


def parse(content: bytes) -> Terms:
    """The terms of a file in UTF-8, one a line; ``#`` begins a line that is none.

    Raises:
        ValueError: it is no UTF-8, a line has no letter and no digit, or there is no term at all.
    """
    lines = enumerate(content.decode("utf-8-sig").splitlines(), 1)
    terms = {number: words_of(line) for number, line in lines if _is_term(line)}
    for number, words in terms.items():
        if not words:
            raise ValueError(f"line {number} has no letter and no digit, so that it finds nothing")
    if not terms:
        raise ValueError("there is no term in it; to use none, set block_list=off")
    return Terms(
        frozenset(terms.values()),
        max(len(words) for words in terms.values()),
        max(len(words[0]) for words in terms.values()),
    )


def _is_term(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"is no UTF-8 at byte {error.start}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
