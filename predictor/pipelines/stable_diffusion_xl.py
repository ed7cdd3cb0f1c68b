"""Stable Diffusion XL split into the operations that the engine calls step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

from predictor.pipelines.image_encoder import latent_statistics
from predictor.pipelines.stable_diffusion import StableDiffusionDenoiser, rows
from predictor.pipelines.whole import DiffusersPipeline

if TYPE_CHECKING:
    from predictor.engine.interfaces import Conditioning, Lane


class StableDiffusionXLDenoiser(StableDiffusionDenoiser):
    """A ``Denoiser`` over ``StableDiffusionXLPipeline``: two text encoders, sizes as conditions."""

    def __init__(self, loaded: DiffusersPipeline) -> None:
        super().__init__(loaded)
        vae = self._pipeline.vae
        if vae.dtype == torch.float16 and vae.config.force_upcast:
            # The VAE overflows in half precision. diffusers casts it back and forth per picture.
            vae.to(torch.float32)

    def _encode(self, prompts: Sequence[str], clip_skip: int) -> list[Conditioning]:
        embeddings, _, pooled, _ = self._pipeline.encode_prompt(
            list(prompts),
            device=self._device,
            do_classifier_free_guidance=False,
            clip_skip=clip_skip,
        )
        if self._pipeline.config.force_zeros_for_empty_prompt:
            empty = [index for index, prompt in enumerate(prompts) if not prompt]
            embeddings[empty] = 0
            pooled[empty] = 0
        return rows(embeddings, pooled)

    def _added_conditions(self, lanes: Sequence[Lane]) -> dict[str, torch.Tensor] | None:
        """Return pooled embeddings and the micro-conditioning sizes, both those of the picture."""
        latent_sides = lanes[0].denoising.latents.shape[-2:]
        height, width = (side * self._pipeline.vae_scale_factor for side in latent_sides)
        pooled = torch.stack([lane.conditioning[1] for lane in lanes])
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=pooled.dtype)
        return {
            "text_embeds": pooled,
            "time_ids": sizes.to(self._device).repeat(len(lanes), 1),
        }

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        unscaled = super()._unscaled(latents)
        statistics = latent_statistics(self._pipeline.vae, latents)
        if statistics is None:
            return unscaled
        mean, std = statistics
        return unscaled * std + mean

    def _to_picture(self, image: torch.Tensor) -> Image.Image:
        if self._pipeline.watermark is not None:
            image = self._pipeline.watermark.apply_watermark(image)
        picture: Image.Image = self._pipeline.image_processor.postprocess(image, "pil")[0]
        return picture
