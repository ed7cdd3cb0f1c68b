"""The noise that pictures start from, drawn before the engine's thread needs it."""

from __future__ import annotations

import threading
from collections import OrderedDict
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
        self._prepared: OrderedDict[_Key, SeededNoise] = OrderedDict()
        self._lock = threading.Lock()

    def prepare(self, seed: int, shape: tuple[int, ...]) -> None:
        """Draw the noise of a picture whose ``take`` follows, and of no other."""
        drawn = self._draw(seed, shape)
        with self._lock:
            self._prepared[seed, shape] = drawn
            if len(self._prepared) > _MAX_PREPARED:
                self._prepared.popitem(last=False)

    def take(self, seed: int, shape: tuple[int, ...]) -> SeededNoise:
        """Noise of variance 1 in the pipeline's dtype; the caller owns the generator."""
        with self._lock:
            prepared = self._prepared.pop((seed, shape), None)
        return prepared or self._draw(seed, shape)

    def _draw(self, seed: int, shape: tuple[int, ...]) -> SeededNoise:
        generator = seeded_generator(seed)
        host = host_memory(shape, self._device, self._dtype)
        torch.randn(shape, generator=generator, dtype=self._dtype, out=host)
        return SeededNoise(generator, upload(host, self._device))
