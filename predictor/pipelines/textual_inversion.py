"""Textual inversion (Gal et al., arXiv:2208.01618): words with vectors from a file.

Each vector is a token of the tokenizer, ``name``, ``name_1`` and so on, as in diffusers. A prompt
contains only ``name``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from predictor.errors import GenerationFailedError


class Embeddings:
    """The embeddings of a model: all ``names``, and those of them that did not load."""

    def __init__(self, names: Iterable[str] = (), broken: Iterable[str] = ()) -> None:
        self.names = tuple(names)
        self._broken = {
            name: re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE) for name in broken
        }

    def check(self, prompts: Iterable[str]) -> None:
        """Refuse prompts that contain the name of a broken embedding as a word.

        Raises:
            GenerationFailedError: names the embedding.
        """
        for prompt in prompts:
            for name, word in self._broken.items():
                if word.search(prompt):
                    raise GenerationFailedError(
                        f"embedding {name!r} does not load; the server's log has the cause"
                    )


def vectors_of(tokenizer: Any) -> dict[int, tuple[int, ...]]:
    """The token ids of each embedding with several vectors, by the first of them."""
    added = tokenizer.get_added_vocab()
    found: dict[int, tuple[int, ...]] = {}
    for name, first in added.items():
        ids = [first]
        while (following := added.get(f"{name}_{len(ids)}")) is not None:
            ids.append(following)
        if len(ids) > 1:
            found[first] = tuple(ids)
    return found
