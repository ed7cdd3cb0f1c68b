"""Stable Diffusion 3 and 3.5 split into the operations that the engine calls step by step.

The result matches ``__call__`` of diffusers' pipelines, except that inpainting adds the VAE's
``shift_factor`` when it decodes. diffusers 0.42 omits it, which tints the picture
(huggingface/diffusers#13611).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from predictor.pipelines.flow_matching import FlowMatchingDenoiser, TransformerPass
from predictor.pipelines.stable_diffusion import TEXT_ENCODERS, TOKENIZERS, rows

if TYPE_CHECKING:
    from predictor.engine.interfaces import Conditioning, Lane


class StableDiffusion3Denoiser(FlowMatchingDenoiser):
    """A ``Denoiser`` over ``StableDiffusion3Pipeline``: three text encoders, T5 optional."""

    most_shift = 1.16
    tokenizers = (*TOKENIZERS, "tokenizer_3")

    def _encode(self, prompts: Sequence[str], clip_skip: int, chunks: int) -> list[Conditioning]:
        clip = [
            getattr(self._pipeline, encoder)(
                self._padded[tokenizer].ids(prompts), output_hidden_states=True
            )
            for tokenizer, encoder in zip(TOKENIZERS, TEXT_ENCODERS, strict=True)
        ]
        # As in SDXL: the layer before the last one, and the pooled outputs.
        embeddings = torch.cat([one.hidden_states[-2] for one in clip], dim=-1)
        t5 = self._t5_embeddings(prompts)
        embeddings = pad(embeddings.to(t5.dtype), (0, t5.shape[-1] - embeddings.shape[-1]))
        return rows(
            torch.cat([embeddings, t5], dim=-2), torch.cat([one[0] for one in clip], dim=-1)
        )

    def _t5_embeddings(self, prompts: Sequence[str]) -> torch.Tensor:
        """``(prompts, tokens, numbers)``, zeros without T5."""
        encoder = self._pipeline.text_encoder_3
        if encoder is None:
            width = self._pipeline.transformer.config.joint_attention_dim
            dtype = self._pipeline.text_encoder.dtype
            return torch.zeros(
                len(prompts), self._t5_tokens, width, dtype=dtype, device=self._device
            )
        embeddings: torch.Tensor = encoder(self._padded["tokenizer_3"].ids(prompts))[0]
        return embeddings.to(encoder.dtype)

    def _pass(self, lanes: Sequence[Lane], latents: torch.Tensor) -> TransformerPass:
        pooled = {"pooled_projections": self._condition(1, lanes)}
        return TransformerPass(latents, self._timesteps(lanes), self._condition(0, lanes), pooled)

    @property
    def _patch_size(self) -> int:
        return int(self._pipeline.transformer.config.patch_size)
