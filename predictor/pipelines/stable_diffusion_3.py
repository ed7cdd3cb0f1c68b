"""Stable Diffusion 3 and 3.5 split into the operations that the engine calls step by step.

The result matches ``__call__`` of diffusers' pipelines, except that inpainting adds the VAE's
``shift_factor`` when it decodes. diffusers 0.42 omits it, which tints the picture
(huggingface/diffusers#13611).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from predictor.pipelines.flow_matching import FlowMatchingDenoiser
from predictor.pipelines.stable_diffusion import rows

if TYPE_CHECKING:
    from predictor.engine.interfaces import Conditioning, Lane


class StableDiffusion3Denoiser(FlowMatchingDenoiser):
    """A ``Denoiser`` over ``StableDiffusion3Pipeline``: three text encoders, T5 optional."""

    most_shift = 1.16

    def _encode(self, prompts: Sequence[str], clip_skip: int, chunks: int) -> list[Conditioning]:
        embeddings, _, pooled, _ = self._pipeline.encode_prompt(
            prompt=list(prompts),
            prompt_2=None,
            prompt_3=None,
            device=self._device,
            do_classifier_free_guidance=False,
            **self._length,
        )
        return rows(embeddings, pooled)

    def _predict(self, lanes: Sequence[Lane], latents: torch.Tensor) -> torch.Tensor:
        prediction: torch.Tensor = self._pipeline.transformer(
            hidden_states=latents,
            timestep=self._timesteps(lanes),
            encoder_hidden_states=torch.stack([lane.conditioning[0] for lane in lanes]),
            pooled_projections=torch.stack([lane.conditioning[1] for lane in lanes]),
            return_dict=False,
        )[0]
        return prediction

    @property
    def _patch_size(self) -> int:
        return int(self._pipeline.transformer.config.patch_size)
