"""The noise that pictures start from, drawn before the engine's thread needs it."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple, TypeAlias

import torch

from predictor.engine.transfers import host_memory, upload
from predictor.pipelines.schedulers import seeded_generator

# Of pictures that wait; 0.1 MB each in half precision for a megapixel.
_MAX_PREPARED = 64

_Key: TypeAlias = tuple[int, tuple[int, ...]]


class SeededNoise(NamedTuple):
    """``noise`` on the device, and the generator after it was drawn."""

    generator: torch.Generator
    noise: torch.Tensor


class InitialNoise:
    """Draws on the CPU and copies to ``device``; any thread may call it."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._dtype = dtype
        self._prepared: deque[tuple[_Key, SeededNoise]] = deque(maxlen=_MAX_PREPARED)
        self._lock = threading.Lock()

    def prepare(self, seed: int, shape: tuple[int, ...]) -> None:
        """Draw the noise of a picture whose ``take`` follows, and of no other."""
        drawn = self._draw(seed, shape)
        with self._lock:
            self._prepared.append(((seed, shape), drawn))

    def take(self, seed: int, shape: tuple[int, ...]) -> SeededNoise:
        """Noise of variance 1 in the pipeline's dtype; the caller owns the generator."""
        return self._pop((seed, shape)) or self._draw(seed, shape)

    def _pop(self, key: _Key) -> SeededNoise | None:
        with self._lock:
            for index, (known, drawn) in enumerate(self._prepared):
                if known == key:
                    del self._prepared[index]
                    return drawn
        return None

    def _draw(self, seed: int, shape: tuple[int, ...]) -> SeededNoise:
        generator = seeded_generator(seed)
        host = host_memory(shape, self._device, self._dtype)
        torch.randn(shape, generator=generator, dtype=self._dtype, out=host)
        return SeededNoise(generator, upload(host, self._device))
