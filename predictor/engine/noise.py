"""The noise of one picture's passes, drawn on another thread before the pass that needs it."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, TypeAlias

import numpy as np
import torch

from predictor.engine.cpu_threads import pool

Drawn: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"

# One thread: a picture's draws must keep their order.
_DRAWER = pool(1, "noise")


class NoiseAhead:
    """Holds the noise of one step; until the step changes, each call returns the same noise.

    Draws advance ``generator``, so nothing else may use it between two steps that draw.
    """

    def __init__(self, generator: torch.Generator, shape: torch.Size) -> None:
        self._generator = generator
        self._shape = shape
        self._step = -1
        self._drawn: Future[Drawn] | None = None

    def start(self, step: int, dtype: torch.dtype) -> None:
        """Start to draw the noise of a step, unless that has begun."""
        if step != self._step:
            self._step = step
            self._drawn = _DRAWER.submit(_draw, self._generator, self._shape, dtype)

    def get(self, step: int, dtype: torch.dtype) -> Drawn:
        """The noise of a step as a row of float32 numbers, whatever the ``dtype`` of the draw."""
        self.start(step, dtype)
        assert self._drawn is not None
        return self._drawn.result()


def _draw(generator: torch.Generator, shape: torch.Size, dtype: torch.dtype) -> Drawn:
    noise = torch.randn(shape, generator=generator, dtype=dtype)
    drawn: Drawn = noise.float().flatten().numpy()
    return drawn
