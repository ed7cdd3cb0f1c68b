"""Restores the pixels outside the mask of an inpainted picture."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from PIL import Image

from predictor.engine.admission import Admission
from predictor.engine.interfaces import Engine, EngineState, Previews, StepListener
from predictor.library_exit import contained
from predictor.requests import GenerationRequest, GenerationResult, Preview


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
        self,
        request: GenerationRequest,
        on_step: StepListener | None = None,
        previews: Previews | None = None,
    ) -> GenerationResult:
        """Generate one picture; see ``Engine.submit``."""
        if request.mask_image is None:
            return await self._engine.submit(request, on_step, previews)
        shown = previews and _composed_previews(request, previews)
        result = await self._engine.submit(request, on_step, shown)
        return await asyncio.to_thread(composed, result)

    def close(self) -> None:
        """See ``Engine.close``."""
        self._engine.close()


@contained("composing the picture")
def composed(result: GenerationResult) -> GenerationResult:
    """The result with the pixels of the input where the mask is black.

    Grey blends the two, so that a soft mask has a soft edge.
    """
    if result.image is None:
        return result
    return replace(result, image=_pasted(result.image, result.request))


def _composed_previews(request: GenerationRequest, previews: Previews) -> Previews:
    def on_preview(preview: Preview) -> None:
        previews.on_preview(replace(preview, image=_pasted(preview.image, request)))

    return replace(previews, on_preview=on_preview)


def _pasted(picture: Image.Image, request: GenerationRequest) -> Image.Image:
    if request.image is None or request.mask_image is None:
        return picture
    return Image.composite(picture, request.image.image, request.mask_image.image)
