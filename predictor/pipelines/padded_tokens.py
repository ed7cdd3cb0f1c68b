"""The token ids of prompts for the text encoders of a transformer, which all have one length."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from predictor.engine.transfers import host_memory, upload

# Prompts of requests that wait for the engine; 4 KB each for T5.
_MAX_CACHED = 1024


class PaddedTokens:
    """Pads and truncates prompts to ``tokens``; any thread may call it.

    It has a tokenizer of its own, see ``TruncationWarnings``.
    """

    def __init__(self, tokenizer: Any, tokens: int, device: torch.device) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._tokens = tokens
        self._device = device
        self._lock = threading.Lock()
        self._row = lru_cache(_MAX_CACHED)(self._tokenized)

    def prepare(self, prompt: str) -> None:
        """Compute in advance what ``ids`` needs."""
        self._row(prompt)

    def ids(self, prompts: Sequence[str]) -> torch.Tensor:
        """``(prompts, tokens)`` of int64, on the device."""
        host = host_memory((len(prompts), self._tokens), self._device, torch.int64)
        host.numpy()[:] = [self._row(prompt) for prompt in prompts]
        return upload(host, self._device)

    def _tokenized(self, prompt: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        with self._lock:
            encoded = self._tokenizer(
                prompt,
                padding="max_length",
                max_length=self._tokens,
                truncation=True,
                return_tensors="np",
            )
        row: np.ndarray[Any, np.dtype[np.int64]] = encoded.input_ids[0]
        return row
