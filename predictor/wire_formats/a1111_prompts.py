"""Adapters that a prompt names, as in ``a castle <lora:sketch:0.8>``."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from predictor.errors import InvalidRequestError
from predictor.requests.validation import shortened

_TAG = re.compile(r"<(lora|lyco|hypernet):([^<>]*)>", re.IGNORECASE)


class Prompt(NamedTuple):
    """A prompt without its tags, the adapters that these name, and how each was written."""

    text: str
    adapters: list[dict[str, Any]]
    tags: list[str]


def read_prompt(prompt: str) -> Prompt:
    """Split a prompt from the adapters that it names.

    Raises:
        InvalidRequestError: a tag has another form.
    """
    found = [*_TAG.finditer(prompt)]
    adapters = [_adapter(tag) for tag in found]
    return Prompt(_TAG.sub("", prompt).strip(), adapters, [shortened(tag[0]) for tag in found])


def _adapter(tag: re.Match[str]) -> dict[str, Any]:
    name, *scales = [part.strip() for part in tag[2].split(":")]
    if tag[1].lower() == "hypernet":
        raise InvalidRequestError("prompt", f"{shortened(tag[0])}: the server has no hypernetworks")
    try:
        # Text encoder and denoiser, which diffusers scales together.
        numbers = {float(scale) for scale in scales}
    except ValueError:
        numbers = set()
        scales = [""]
    if not name or len(numbers) != min(len(scales), 1):
        reason = "expected `<lora:name>` or `<lora:name:scale>` with one scale"
        raise InvalidRequestError("prompt", f"{shortened(tag[0])}: {reason}")
    return {"name": name, "scale": numbers.pop() if numbers else 1.0}
