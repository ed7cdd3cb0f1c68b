"""Stable Diffusion XL split into the operations that the engine calls step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from predictor.engine.transfers import upload_numbers
from predictor.pipelines.image_encoder import latent_statistics
from predictor.pipelines.stable_diffusion import (
    TEXT_ENCODERS,
    TOKENIZERS,
    StableDiffusionDenoiser,
    rows,
)
from predictor.pipelines.whole import DiffusersPipeline

if TYPE_CHECKING:
    from predictor.engine.interfaces import Conditioning, Lane

# Callers choose the size of their pictures.
_MAX_IDS = 256


class StableDiffusionXLDenoiser(StableDiffusionDenoiser):
    """A ``Denoiser`` over ``StableDiffusionXLPipeline``: two text encoders, sizes as conditions."""

    def __init__(self, loaded: DiffusersPipeline) -> None:
        super().__init__(loaded)
        self._ids: dict[tuple[float, ...], torch.Tensor] = {}
        vae = self._pipeline.vae
        if vae.dtype == torch.float16 and vae.config.force_upcast:
            # The VAE overflows in half precision. diffusers casts it back and forth per picture.
            vae.to(torch.float32)

    def _encode(self, prompts: Sequence[str], clip_skip: int, chunks: int) -> list[Conditioning]:
        layers: list[torch.Tensor] = []
        for tokenizer, encoder in zip(TOKENIZERS, TEXT_ENCODERS, strict=True):
            if tokenizer not in self._token_ids:
                continue
            tokens = self._token_ids[tokenizer].batch(prompts, chunks)
            encoded = getattr(self._pipeline, encoder)(tokens.ids, output_hidden_states=True)
            # SDXL takes the layer before the last one, and the pooled output of its last encoder.
            layers.append(tokens.joined(encoded.hidden_states[-(clip_skip + 2)]))
            pooled = tokens.pooled(encoded[0])
        embeddings = torch.cat(layers, dim=-1)
        if self._pipeline.config.force_zeros_for_empty_prompt:
            for index, prompt in enumerate(prompts):
                if not prompt:
                    embeddings[index].zero_()
                    pooled[index].zero_()
        return rows(embeddings.to(self._pipeline.text_encoder_2.dtype), pooled)

    def _added_conditions(self, lanes: Sequence[Lane]) -> dict[str, torch.Tensor] | None:
        """Return pooled embeddings and the micro-conditioning sizes, both those of the picture."""
        return {
            "text_embeds": self._condition(1, lanes),
            "time_ids": self._time_ids(lanes),
        }

    def _time_ids(self, lanes: Sequence[Lane]) -> torch.Tensor:
        """``(lanes, numbers)``, the same for all lanes."""
        return self._uploaded_ids(self._sizes(lanes)).expand(len(lanes), -1)

    def _sizes(self, lanes: Sequence[Lane]) -> tuple[float, ...]:
        """Height and width of the original, corner of the crop, height and width of the target."""
        latent_sides = lanes[0].denoising.latents.shape[-2:]
        height, width = (side * self._pipeline.vae_scale_factor for side in latent_sides)
        return (height, width, 0, 0, height, width)

    def _uploaded_ids(self, numbers: tuple[float, ...]) -> torch.Tensor:
        """The numbers on the device, copied once."""
        if numbers not in self._ids:
            if len(self._ids) >= _MAX_IDS:
                self._ids.clear()
            self._ids[numbers] = upload_numbers(numbers, self._device, self._dtype)
        return self._ids[numbers]

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        unscaled = super()._unscaled(latents)
        statistics = latent_statistics(self._pipeline.vae, latents)
        if statistics is None:
            return unscaled
        mean, std = statistics
        return unscaled * std + mean

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        image = super()._decoded(latents)
        if self._pipeline.watermark is None:
            return image
        # On the CPU, so this waits for the picture; only with diffusers' optional watermarker.
        marked: torch.Tensor = self._pipeline.watermark.apply_watermark(image)
        return marked
