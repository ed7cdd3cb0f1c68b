"""Values that are computed for a request before the engine's thread needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from predictor.requests import GenerationRequest

# Of requests that wait. Input pictures are the largest: in half precision 6 MB for a megapixel,
# and twice that for an inpainting UNet.
_MAX_PREPARED = 32

_Value = TypeVar("_Value")


class Prepared(Generic[_Value]):
    """The results of ``compute``; any thread may call it. A value lives as long as its request.

    Of more requests than fit, those that came first stay prepared, as they start first.
    """

    def __init__(self, compute: Callable[[GenerationRequest], _Value]) -> None:
        self._compute = compute
        self._values: WeakKeyDictionary[GenerationRequest, _Value] = WeakKeyDictionary()

    def prepare(self, request: GenerationRequest) -> None:
        """Compute the value that ``take`` returns."""
        if len(self._values) < _MAX_PREPARED:
            self._values[request] = self._compute(request)

    def take(self, request: GenerationRequest) -> _Value:
        """The value, computed now if it is not prepared; the caller owns it."""
        value = self._values.pop(request, None)
        return self._compute(request) if value is None else value
