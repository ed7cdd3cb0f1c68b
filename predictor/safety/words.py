"""Splits text into normalised words for a block list: text that looks the same compares equal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# Scripts without spaces between words (Thai to Khmer, kana, Han) or around particles (Hangul). Each
# character counts as a word, so that a term is found within a sentence.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")
# Invisible Unicode letters (UAX 44, Default_Ignorable_Code_Point).
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f")
# The minimum number of single letters in a row that are tried as one word, as in "g o r e".
_SPELLED_OUT = 3


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of ``text`` without case, accents, width, style and invisible characters."""
    return tuple(_WORD.findall(_normalised(text)))


def spelled_out(words: tuple[str, ...], longest: int) -> Iterator[str]:
    """Yield the words that single letters in a row may spell, up to ``longest`` letters."""
    for start, run in _runs_of_letters(words):
        for first in range(start, start + run):
            end = min(start + run, first + longest)
            for last in range(first + _SPELLED_OUT, end + 1):
                yield "".join(words[first:last])


def _runs_of_letters(words: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    start = 0
    for index in range(len(words) + 1):
        if index == len(words) or len(words[index]) > 1:
            if index - start >= _SPELLED_OUT:
                yield start, index - start
            start = index + 1


def _normalised(text: str) -> str:
    """Fold compatibility forms (UAX 15) and case, and remove accents."""
    # Twice, because case folding may add a mark, for example to the dotted capital I.
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    kept = "".join(character for character in folded if not _is_dropped(character))
    return unicodedata.normalize("NFKC", kept)


def _is_dropped(character: str) -> bool:
    """Whether it is an accent, overlay or vowel point, by its combining class. Marks that turn a
    letter into another one (kana, Thai, Indic scripts) stay.
    """
    order = unicodedata.combining(character)
    if order == 1 or 10 <= order <= 36 or order >= 200:
        return True
    if unicodedata.category(character) in ("Cf", "Me") or character in _INVISIBLE:
        return True
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
