"""The block list: forbidden terms in prompts, from a file that may change at any time."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from predictor.metrics import BLOCK_LIST_FAILURES
from predictor.reloaded_file import ReloadedFile
from predictor.requests import PROMPT_LAYER, SafetyAction
from predictor.safety.words import spelled_out, words_of


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
    """A ``SafetyLayer`` for prompts that follows changes of its file (``ReloadedFile``)."""

    name = PROMPT_LAYER

    def __init__(self, action: SafetyAction, file: Path) -> None:
        """Read the file.

        Raises:
            ModelLoadError: the file cannot be read or is not a valid list.
        """
        self.action = action
        self._terms = ReloadedFile(
            file, parse, setting="block_list_file", kind="list", failures=BLOCK_LIST_FAILURES
        )

    def fires_at(self, subject: str) -> bool:
        """Whether the prompt contains a term of the list."""
        return self._terms.content.are_in(subject)


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
