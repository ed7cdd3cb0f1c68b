"""Restores the pixels outside the mask of an inpainted picture."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from PIL import Image

from predictor.engine.admission import Admission
from predictor.engine.interfaces import Engine, EngineState, StepListener
from predictor.library_exit import contained
from predictor.requests import GenerationRequest, GenerationResult


class CompositeEngine:
    """An ``Engine`` around another one that limits inpainting to the masked area.

    A latent covers 8x8 pixels, and a VAE does not reproduce its input exactly: without this, every
    pixel of an inpainted picture would change a little.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def state(self) -> EngineState:
        """See ``Engine.state``."""
        return self._engine.state

    @property
    def admission(self) -> Admission:
        """See ``Engine.admission``."""
        return self._engine.admission

    async def submit(
        self, request: GenerationRequest, on_step: StepListener | None = None
    ) -> GenerationResult:
        """Generate one picture; see ``Engine.submit``."""
        result = await self._engine.submit(request, on_step)
        if request.mask_image is None:
            return result
        return await asyncio.to_thread(composed, result)

    def close(self) -> None:
        """See ``Engine.close``."""
        self._engine.close()


@contained("composing the picture")
def composed(result: GenerationResult) -> GenerationResult:
    """The result with the pixels of the input where the mask is black.

    Grey blends the two, so that a soft mask has a soft edge.
    """
    request = result.request
    if result.image is None or request.image is None or request.mask_image is None:
        return result
    image = Image.composite(result.image, request.image.image, request.mask_image.image)
    return replace(result, image=image)
