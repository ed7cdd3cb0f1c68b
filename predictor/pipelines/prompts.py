"""Prompt truncation: the end of a prompt that is longer than the text encoder's window."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from predictor.pipelines.textual_inversion import vectors_of

# Prompts of requests that wait for the engine.
_MAX_CACHED = 256


class Window(NamedTuple):
    """The number of tokens one text encoder reads, including the start and end tokens."""

    tokenizer: Any
    tokens: int


def windows(components: dict[str, Any], max_sequence_length: int | None) -> list[Window]:
    """Return the window of each text encoder; skip encoders that are not loaded (SD3's T5).

    ``max_sequence_length`` is the window of encoders other than CLIP.
    """
    found = []
    for name, tokenizer in components.items():
        if not name.startswith("tokenizer") or not getattr(tokenizer, "is_fast", False):
            continue
        encoder = components.get(name.replace("tokenizer", "text_encoder"))
        if encoder is None:
            continue
        tokens = tokenizer.model_max_length
        if max_sequence_length and not type(encoder).__name__.startswith("CLIP"):
            tokens = max_sequence_length
        found.append(Window(tokenizer, tokens))
    return found


def dropped_text(window: Window, prompt: str) -> str:
    """Return the part of ``prompt`` beyond the window, as the caller wrote it, or "".

    The window includes the start and end tokens: CLIP's 77 tokens leave 75 for the prompt.
    """
    tokenizer, tokens = window
    encoded = tokenizer(prompt, return_offsets_mapping=True, add_special_tokens=False)
    vectors = vectors_of(tokenizer)
    starts = [
        start
        for token, (start, _) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        for _ in vectors.get(token, (token,))
    ]
    dropped = starts[tokens - tokenizer.num_special_tokens_to_add() :]
    return prompt[dropped[0] :].strip() if dropped else ""


def truncation_warning(field: str, windows: Iterable[Window], prompt: str) -> str | None:
    """Return a warning if every text encoder drops the end of ``prompt``.

    An encoder with a longer window (SD3's T5) may still read it, so the shortest dropped part
    counts.
    """
    dropped = min((dropped_text(one, prompt) for one in windows), key=len, default="")
    if not dropped:
        return None
    return f"{field} is longer than the text encoder reads; dropped: {dropped!r}"


class TruncationWarnings:
    """The warnings of one model, cached, so that a thread may ask for them in advance.

    It has tokenizers of its own: a fast tokenizer cannot change its padding while another thread
    uses it.
    """

    def __init__(self, windows: Iterable[Window]) -> None:
        self._windows = [Window(copy.deepcopy(one.tokenizer), one.tokens) for one in windows]
        self._lock = threading.Lock()
        self.of = lru_cache(_MAX_CACHED)(self._of)

    def _of(self, field: str, prompt: str) -> str | None:
        """See ``truncation_warning``."""
        with self._lock:
            return truncation_warning(field, self._windows, prompt)
