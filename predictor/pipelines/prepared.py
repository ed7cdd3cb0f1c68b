"""Values that are computed for a request before the engine's thread needs them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

import torch

from predictor.requests import GenerationRequest

# Input pictures of requests that wait: 6 MB for a megapixel in half precision, 12 MB in float32.
MAX_BYTES = 256 * 2**20

_Value = TypeVar("_Value")


class Prepared(Generic[_Value]):
    """The results of ``compute``; any thread may call it. A value lives as long as its request.

    A value is a tensor, or a tuple that contains tensors. Once they take ``max_bytes``, requests
    are not prepared: those that came first start first.
    """

    def __init__(
        self, compute: Callable[[GenerationRequest], _Value], max_bytes: int = MAX_BYTES
    ) -> None:
        self._compute = compute
        self._max_bytes = max_bytes
        self._values: WeakKeyDictionary[GenerationRequest, _Value] = WeakKeyDictionary()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """The bytes of all values."""
        with self._lock:
            return sum(_bytes_of(value) for value in self._values.values())

    def prepare(self, request: GenerationRequest) -> None:
        """Compute the value that ``take`` returns."""
        if self.nbytes >= self._max_bytes:
            return
        value = self._compute(request)
        with self._lock:
            self._values[request] = value

    def take(self, request: GenerationRequest) -> _Value:
        """The value, computed now if it is not prepared; the caller owns it."""
        with self._lock:
            value = self._values.pop(request, None)
        return self._compute(request) if value is None else value


def _bytes_of(value: object) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    return sum(map(_bytes_of, value)) if isinstance(value, tuple) else 0
