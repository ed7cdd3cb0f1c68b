"""What a text encoder does not read: the end of a prompt that is longer than its window."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def dropped_text(tokenizer: Any, prompt: str) -> str:
    """The part of ``prompt`` beyond the tokenizer's window, as the caller wrote it; often empty.

    The window counts the start and end tokens: 77 for CLIP, 75 of them for the prompt.
    """
    encoded = tokenizer(prompt, return_offsets_mapping=True, add_special_tokens=False)
    room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    offsets = encoded["offset_mapping"][room:]
    return prompt[offsets[0][0] :].strip() if offsets else ""


def truncation_warning(field: str, tokenizers: Iterable[Any], prompt: str) -> str | None:
    """What to tell the caller when every text encoder drops the end of ``prompt``.

    A pipeline with a long-window encoder (SD3's T5) reads the end all the same: the shortest
    dropped part counts.
    """
    dropped = min((dropped_text(one, prompt) for one in tokenizers), key=len, default="")
    if not dropped:
        return None
    return f"{field} is longer than the text encoder reads; dropped: {dropped!r}"
