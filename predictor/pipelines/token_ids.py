"""The token ids of prompts for a CLIP text encoder, computed ahead of the engine's thread."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from predictor.engine.transfers import host_memory, upload

# Prompts of requests that wait for the engine; a kilobyte each.
_MAX_CACHED = 1024


class _Row(NamedTuple):
    ids: np.ndarray[Any, np.dtype[np.int64]]
    mask: np.ndarray[Any, np.dtype[np.int64]]


class TokenIds:
    """Pads and truncates prompts to the window of ``tokenizer``; any thread may call it.

    It has a tokenizer of its own, see ``TruncationWarnings``.
    """

    def __init__(self, tokenizer: Any, device: torch.device) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._device = device
        self._lock = threading.Lock()
        self._row = lru_cache(_MAX_CACHED)(self._tokenized)

    def prepare(self, prompt: str) -> None:
        """Compute in advance what the other methods need."""
        self._row(prompt)

    def ids(self, prompts: Sequence[str]) -> torch.Tensor:
        """``(prompts, tokens)`` of int64, on the device."""
        return self._uploaded([self._row(prompt).ids for prompt in prompts])

    def mask(self, prompts: Sequence[str]) -> torch.Tensor:
        """Like ``ids``: 1 for the tokens of the prompt, 0 for the padding."""
        return self._uploaded([self._row(prompt).mask for prompt in prompts])

    def _tokenized(self, prompt: str) -> _Row:
        with self._lock:
            tokens = self._tokenizer(
                prompt,
                padding="max_length",
                max_length=self._tokenizer.model_max_length,
                truncation=True,
                return_tensors="np",
            )
        return _Row(tokens.input_ids[0], tokens.attention_mask[0])

    def _uploaded(self, rows: list[np.ndarray[Any, np.dtype[np.int64]]]) -> torch.Tensor:
        host = host_memory((len(rows), len(rows[0])), self._device, torch.int64)
        host.numpy()[:] = rows
        return upload(host, self._device)
