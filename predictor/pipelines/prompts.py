"""What a text encoder does not read: the end of a prompt that is longer than its window."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Window(NamedTuple):
    """How much of a prompt one text encoder reads: so many tokens, those around the prompt too."""

    tokenizer: Any
    tokens: int


def windows(components: dict[str, Any], max_sequence_length: int | None) -> list[Window]:
    """One for each text encoder of a pipeline; an encoder left out (SD3's T5) reads nothing.

    ``max_sequence_length`` is what the pipeline gives to encoders other than CLIP.
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
    """The part of ``prompt`` beyond the window, as the caller wrote it; often empty.

    The window counts the start and end tokens: 77 for CLIP, 75 of them for the prompt.
    """
    tokenizer, tokens = window
    encoded = tokenizer(prompt, return_offsets_mapping=True, add_special_tokens=False)
    offsets = encoded["offset_mapping"][tokens - tokenizer.num_special_tokens_to_add() :]
    return prompt[offsets[0][0] :].strip() if offsets else ""


def truncation_warning(field: str, windows: Iterable[Window], prompt: str) -> str | None:
    """What to tell the caller when every text encoder drops the end of ``prompt``.

    A pipeline with a long-window encoder (SD3's T5) reads the end all the same: the shortest
    dropped part counts.
    """
    dropped = min((dropped_text(one, prompt) for one in windows), key=len, default="")
    if not dropped:
        return None
    return f"{field} is longer than the text encoder reads; dropped: {dropped!r}"
