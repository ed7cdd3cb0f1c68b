"""The weighted prompt syntax: ``(word:1.3)``, ``(word)``, ``[word]``, ``BREAK`` and escapes.

It is that of AUTOMATIC1111's web UI, which most clients write. An unclosed bracket ends with the
bracket around it, and one that closes nothing is text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

# What a bracket multiplies the weight by, unless it ends with a number.
_FACTORS = {"(": 1.1, "[": 1 / 1.1}
_OPENING = {")": "(", "]": "["}

_TOKEN = re.compile(
    r"""
    \\[()\[\]\\]                                  # an escaped character
    | [()\[\]]
    | :\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)\s*\)  # the weight at the end of a group
    | [^\\()\[\]:]+
    | .
    """,
    re.VERBOSE | re.DOTALL,
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


class Part(NamedTuple):
    """Text of one weight."""

    text: str
    weight: float = 1.0


@dataclass
class _Group:
    """A bracket; ``weight`` is known when it closes."""

    opening: str
    weight: float


def sections(prompt: str) -> list[list[Part]]:
    """The parts of a prompt, in lists that ``BREAK`` separates; a weight may be any number.

    Neighbours of equal weight are one part, so that weights of 1 leave no trace in the text.
    """
    found: list[list[Part]] = [[]]
    for text, weight in _weighted(prompt):
        for index, piece in enumerate(_BREAK.split(text)):
            if index:
                found.append([])
            if piece:
                _append(found[-1], Part(piece, weight))
    return found


def text_of(prompt: str) -> str:
    """The text of a weighted prompt, without brackets, weights and ``BREAK``."""
    return " ".join("".join(part.text for part in section) for section in sections(prompt))


def _append(parts: list[Part], part: Part) -> None:
    if parts and parts[-1].weight == part.weight:
        part = Part(parts.pop().text + part.text, part.weight)
    parts.append(part)


def _weighted(prompt: str) -> Iterator[tuple[str, float]]:
    weights = [1.0]
    for event in _events(prompt):
        if isinstance(event, str):
            yield event, weights[-1]
        elif event is None:
            weights.pop()
        else:
            weights.append(weights[-1] * event.weight)


def _events(prompt: str) -> list[str | _Group | None]:
    """Text, the start of a group, and None at the end of one."""
    events: list[str | _Group | None] = []
    opened: list[_Group] = []
    # Counted, as a prompt may consist of brackets.
    open_now = Counter[str]()
    for token in _TOKEN.findall(prompt):
        if token in _FACTORS:
            opened.append(_Group(token, _FACTORS[token]))
            open_now[token] += 1
            events.append(opened[-1])
        elif token[0] != "\\" and open_now[opening := _OPENING.get(token[-1], "")]:
            closed = _close(opening, opened)
            open_now.subtract(group.opening for group in closed)
            events += [None] * len(closed)
            if token[0] == ":":
                closed[-1].weight = float(token[1:-1])
        else:
            events.append(token[1:] if token[0] == "\\" and len(token) > 1 else token)
    return events


def _close(opening: str, opened: list[_Group]) -> list[_Group]:
    """Remove the innermost group with that bracket, and those within it; it comes last."""
    closed = [opened.pop()]
    while closed[-1].opening != opening:
        closed.append(opened.pop())
    return closed
