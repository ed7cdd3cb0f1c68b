"""The tokens of prompts for a CLIP text encoder, computed ahead of the engine's thread."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from predictor.engine.transfers import host_memory, upload
from predictor.pipelines.textual_inversion import vectors_of
from predictor.requests.prompt_syntax import Part, sections

# Prompts of requests that wait for the engine; a kilobyte for each chunk.
_MAX_CACHED = 1024
# A chunk ends after a comma if one is among its last tokens, as in AUTOMATIC1111's web UI.
_COMMA_WITHIN = 20


class _Chunk(NamedTuple):
    """One row for the text encoder: its window of token ids, and a weight for each."""

    ids: np.ndarray[Any, np.dtype[np.int64]]
    mask: np.ndarray[Any, np.dtype[np.bool_]]
    weights: np.ndarray[Any, np.dtype[np.float32]]


class TokenBatch:
    """The rows of several prompts, ``chunks`` of each, for one call of a text encoder.

    If any weight differs from 1, an empty row at the end is what weights refer to.
    """

    def __init__(
        self, rows: Sequence[_Chunk], chunks: int, empty: _Chunk, device: torch.device
    ) -> None:
        self._chunks = chunks
        self._device = device
        self._is_weighted = any((row.weights != 1).any() for row in rows)
        self._rows = [*rows, empty] if self._is_weighted else rows

    @property
    def ids(self) -> torch.Tensor:
        """``(rows, tokens)`` of int64, on the device."""
        return self._uploaded([row.ids for row in self._rows], torch.int64)

    @property
    def mask(self) -> torch.Tensor:
        """Like ``ids``: 1 for the tokens of the prompt, 0 for the padding."""
        return self._uploaded([row.mask for row in self._rows], torch.int64)

    def joined(self, states: torch.Tensor) -> torch.Tensor:
        """``(prompts, chunks x tokens, width)`` from the encoder's states of all rows.

        A weight ``w`` moves a state ``z`` to ``z0 + w (z - z0)``, where ``z0`` is that of the empty
        prompt: the formula of ComfyUI (``comfy/sd1_clip.py``), and of compel for weights above 1.
        """
        if self._is_weighted:
            weights = self._uploaded([row.weights for row in self._rows[:-1]], torch.float32)
            # ``lerp`` leaves a state with the weight 1 as it is.
            moved = torch.lerp(states[-1:].float(), states[:-1].float(), weights.unsqueeze(-1))
            states = moved.to(states.dtype)
        return states.reshape(-1, self._chunks * states.shape[1], states.shape[2])

    def pooled(self, states: torch.Tensor) -> torch.Tensor:
        """``(prompts, width)``: the pooled state of the first chunk of each prompt."""
        return states[: len(self._rows) - self._is_weighted : self._chunks]

    def _uploaded(self, rows: Sequence[Any], dtype: torch.dtype) -> torch.Tensor:
        host = host_memory((len(rows), len(rows[0])), self._device, dtype)
        host.numpy()[:] = rows
        return upload(host, self._device)


class TokenIds:
    """Splits prompts into the windows of ``tokenizer``; any thread may call it.

    It has a tokenizer of its own, see ``TruncationWarnings``.
    """

    def __init__(self, tokenizer: Any, device: torch.device) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._device = device
        self._lock = threading.Lock()
        self._vectors = vectors_of(tokenizer)
        self._start, self._end = tokenizer("").input_ids
        self._comma = self._ids(",")[-1]
        self._empty = self._chunk([])
        self._chunks = lru_cache(_MAX_CACHED)(self._tokenized)

    def count(self, prompt: str) -> int:
        """The number of chunks that a weighted prompt takes."""
        return len(self._chunks(prompt, True))

    @property
    def tokens_per_chunk(self) -> int:
        """The tokens of a prompt that fit into a chunk, without the start and end tokens."""
        return int(self._tokenizer.model_max_length) - 2

    def prepare(self, prompt: str, *, is_weighted: bool) -> None:
        """Compute in advance what the other methods need."""
        self._chunks(prompt, is_weighted)

    def batch(self, prompts: Sequence[str], chunks: int = 0) -> TokenBatch:
        """The prompts padded to that many chunks each; 0 for plain prompts, which are truncated."""
        rows: list[_Chunk] = []
        for prompt in prompts:
            own = self._chunks(prompt, chunks > 0)
            rows += [*own, *[self._empty] * (chunks - len(own))]
        return TokenBatch(rows, chunks or 1, self._empty, self._device)

    def _tokenized(self, prompt: str, is_weighted: bool) -> list[_Chunk]:
        with self._lock:
            if not is_weighted:
                return [self._chunk(self._weighted([Part(prompt)])[: self.tokens_per_chunk])]
            found = [
                self._chunk(tokens)
                for section in sections(prompt)
                for tokens in self._split(self._weighted(section))
            ]
        return found or [self._empty]

    def _weighted(self, parts: Iterable[Part]) -> list[tuple[int, float]]:
        return [(token, part.weight) for part in parts for token in self._ids(part.text)]

    def _ids(self, text: str) -> list[int]:
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return [vector for token in ids for vector in self._vectors.get(token, (token,))]

    def _split(self, tokens: list[tuple[int, float]]) -> Iterator[list[tuple[int, float]]]:
        size = self.tokens_per_chunk
        while len(tokens) > size:
            last = [token for token, _ in tokens[max(0, size - _COMMA_WITHIN) : size]][::-1]
            end = size - (last.index(self._comma) if self._comma in last else 0)
            yield tokens[:end]
            tokens = tokens[end:]
        if tokens:
            yield tokens

    def _chunk(self, tokens: Sequence[tuple[int, float]]) -> _Chunk:
        window = self._tokenizer.model_max_length
        used = len(tokens) + 2
        ids = np.full(window, self._tokenizer.pad_token_id)
        ids[:used] = [self._start, *(token for token, _ in tokens), self._end]
        weights = np.ones(window, np.float32)
        weights[1 : used - 1] = [weight for _, weight in tokens]
        return _Chunk(ids, np.arange(window) < used, weights)
