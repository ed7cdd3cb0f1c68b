"""FLUX.1 split into the operations that the engine calls step by step.

The result matches ``__call__`` of diffusers' pipelines. Between steps, latents have the shape of
the VAE's; the transformer takes them as a sequence of 2x2 patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from diffusers import FluxPipeline

from predictor.engine.denoising import Denoising
from predictor.pipelines.flow_matching import FlowMatchingDenoiser
from predictor.pipelines.plans import Run
from predictor.pipelines.stable_diffusion import rows
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationRequest

if TYPE_CHECKING:
    from predictor.engine.interfaces import Conditioning, Lane

# Callers choose the size of their pictures.
_MAX_SIZES = 32


class FluxDenoiser(FlowMatchingDenoiser):
    """A ``Denoiser`` over ``FluxPipeline``: CLIP and T5, guidance as an input or distilled away."""

    guidance_is_input = True
    most_shift = 1.15

    def __init__(self, loaded: DiffusersPipeline) -> None:
        super().__init__(loaded)
        self._has_guidance = bool(self._pipeline.transformer.config.guidance_embeds)
        place: dict[str, Any] = {"device": self._device, "dtype": self._dtype}
        self._image_ids = lru_cache(_MAX_SIZES)(
            partial(FluxPipeline._prepare_latent_image_ids, 1, **place)
        )
        self._text_ids = lru_cache(1)(partial(_zero_ids, **place))

    def begin(self, request: GenerationRequest) -> Denoising:
        """See ``Denoiser.begin``."""
        denoising = super().begin(request)
        if self._has_guidance:
            # Filled on the device, so that no pass has to copy it there.
            denoising.guidance_input = torch.full((), request.guidance_scale, device=self._device)
        return denoising

    def _encode(self, prompts: Sequence[str], clip_skip: int, chunks: int) -> list[Conditioning]:
        embeddings, pooled, _ = self._pipeline.encode_prompt(
            prompt=list(prompts), prompt_2=None, device=self._device, **self._length
        )
        return rows(embeddings, pooled)

    def _predict(self, lanes: Sequence[Lane], latents: torch.Tensor) -> torch.Tensor:
        count, channels, height, width = latents.shape
        guidance = [lane.denoising.guidance_input for lane in lanes]
        embeddings = torch.stack([lane.conditioning[0] for lane in lanes])
        prediction = self._pipeline.transformer(
            hidden_states=FluxPipeline._pack_latents(latents, count, channels, height, width),
            # Rounded as in diffusers.
            timestep=self._timesteps(lanes).to(self._dtype) / 1000,
            guidance=torch.stack(guidance) if self._has_guidance else None,
            pooled_projections=torch.stack([lane.conditioning[1] for lane in lanes]),
            encoder_hidden_states=embeddings,
            txt_ids=self._text_ids(embeddings.shape[1]),
            img_ids=self._image_ids(height // 2, width // 2),
            return_dict=False,
        )[0]
        unpacked: torch.Tensor = FluxPipeline._unpack_latents(prediction, height, width, 1)
        return unpacked

    def _run(self, request: GenerationRequest) -> Run:
        is_linear = self._is_linear(request.scheduler, has_image=request.image is not None)
        return super()._run(request)._replace(is_linear=is_linear)

    def _is_linear(self, name: str, *, has_image: bool) -> bool:
        """Whether diffusers' pipeline of the task passes noise levels to the scheduler."""
        scheduler = self._plans.example(name)
        takes_levels = "sigmas" in signature(scheduler.set_timesteps).parameters
        has_levels = not has_image and scheduler.config.get("use_flow_sigmas", False)
        return takes_levels and not has_levels


def _zero_ids(tokens: int, **place: Any) -> torch.Tensor:
    """The positions of text tokens, which FLUX does not use."""
    return torch.zeros(tokens, 3, **place)
