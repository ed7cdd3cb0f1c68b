"""FLUX.1 split into the operations that the engine calls step by step.

The result matches ``__call__`` of diffusers' pipelines. The transformer takes the latents as a
sequence of 2x2 patches. From the first step to the last, their numbers are in that order, so that a
pass needs no copy; the shape of the tensor stays that of the VAE's latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from diffusers import FluxPipeline

from predictor.engine.denoising import Inpainting, Steps
from predictor.engine.transfers import upload_numbers
from predictor.pipelines.flow_matching import FlowMatchingDenoiser, TransformerPass
from predictor.pipelines.image_to_image import Start
from predictor.pipelines.plans import Run
from predictor.pipelines.stable_diffusion import TOKENIZERS, rows
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationRequest

if TYPE_CHECKING:
    from predictor.engine.interfaces import Conditioning, Lane

# Callers choose the size of their pictures.
_MAX_SIZES = 32


class FluxPass(TransformerPass):
    """A pass over packed latents, which keep the sides of the picture in their shape."""

    @property
    def sample(self) -> torch.Tensor:
        """See ``TransformerPass.sample``."""
        return _as_patches(self.latents)


class FluxDenoiser(FlowMatchingDenoiser):
    """A ``Denoiser`` over ``FluxPipeline``: CLIP and T5, guidance as an input or distilled away."""

    guidance_is_input = True
    most_shift = 1.15
    tokenizers = TOKENIZERS

    def __init__(self, loaded: DiffusersPipeline) -> None:
        super().__init__(loaded)
        self._has_guidance = bool(self._pipeline.transformer.config.guidance_embeds)
        place: dict[str, Any] = {"device": self._device, "dtype": self._dtype}
        self._image_ids = lru_cache(_MAX_SIZES)(partial(_patch_ids, **place))
        self._text_ids = lru_cache(1)(partial(_zero_ids, **place))

    def prepare(self, request: GenerationRequest) -> None:
        """See ``Denoiser.prepare``."""
        super().prepare(request)
        self._image_ids(*self._latent_shape(request)[-2:])

    def _guidance_input(self, request: GenerationRequest) -> torch.Tensor | None:
        if not self._has_guidance:
            return None
        # Filled on the device, so that no pass has to copy it there.
        return torch.full((), request.guidance_scale, device=self._device)

    def _encode(self, prompts: Sequence[str], clip_skip: int, chunks: int) -> list[Conditioning]:
        clip, t5 = self._pipeline.text_encoder, self._pipeline.text_encoder_2
        pooled = clip(self._padded["tokenizer"].ids(prompts)).pooler_output
        embeddings = t5(self._padded["tokenizer_2"].ids(prompts))[0]
        return rows(embeddings.to(t5.dtype), pooled.to(clip.dtype))

    def _pass(self, lanes: Sequence[Lane], latents: torch.Tensor) -> FluxPass:
        embeddings = self._condition(0, lanes)
        added = {"pooled_projections": self._condition(1, lanes)}
        inputs = [lane.denoising.guidance_input for lane in lanes]
        guidance = [one for one in inputs if one is not None]
        if guidance:
            added["guidance"] = self._stacked.of("guidance", guidance)
        positions = {
            "txt_ids": self._text_ids(embeddings.shape[1]),
            "img_ids": self._image_ids(*latents.shape[-2:]),
        }
        return FluxPass(latents, self._timesteps(lanes), embeddings, added, positions)

    def _start(self, request: GenerationRequest, steps: Steps) -> Start:
        start = super()._start(request, steps)
        inpainting = start.inpainting
        if inpainting is not None:
            mask = inpainting.mask.expand(-1, start.latents.shape[1], -1, -1)
            inpainting = Inpainting(_packed(inpainting.original), _packed(mask))
        return start._replace(latents=_packed(start.latents), inpainting=inpainting)

    def _network_timesteps(self, timesteps: torch.Tensor) -> torch.Tensor:
        # Rounded as in diffusers.
        return timesteps.to(self._dtype) / 1000

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        return super()._decoded(_unpacked(latents))

    def _run(self, request: GenerationRequest) -> Run:
        is_linear = self._is_linear(request.scheduler, has_image=request.image is not None)
        return super()._run(request)._replace(is_linear=is_linear)

    def _is_linear(self, name: str, *, has_image: bool) -> bool:
        """Whether diffusers' pipeline of the task passes noise levels to the scheduler."""
        scheduler = self._plans.example(name)
        takes_levels = _takes_levels(scheduler.__class__)
        has_levels = not has_image and scheduler.config.get("use_flow_sigmas", False)
        return takes_levels and not has_levels


@lru_cache
def _takes_levels(scheduler: Any) -> bool:
    """Whether this class accepts noise levels; to read a signature takes a while."""
    return "sigmas" in signature(scheduler.set_timesteps).parameters


def _packed(latents: torch.Tensor) -> torch.Tensor:
    """The latents with their numbers in the order of the transformer's sequence."""
    patches: torch.Tensor = FluxPipeline._pack_latents(latents, *latents.shape)
    return patches.view(latents.shape)


def _unpacked(latents: torch.Tensor) -> torch.Tensor:
    """The inverse of ``_packed``."""
    unpacked: torch.Tensor = FluxPipeline._unpack_latents(
        _as_patches(latents), *latents.shape[-2:], vae_scale_factor=1
    )
    return unpacked


def _as_patches(latents: torch.Tensor) -> torch.Tensor:
    """Packed latents as the transformer takes them, ``(pictures, patches, 4 * channels)``."""
    return latents.view(len(latents), -1, 4 * latents.shape[1])


def _patch_ids(height: int, width: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """The positions of the patches of latents of this size, copied once."""
    cpu = torch.device("cpu")
    ids = FluxPipeline._prepare_latent_image_ids(1, height // 2, width // 2, cpu, dtype)
    return upload_numbers(ids, device, dtype)


def _zero_ids(tokens: int, **place: Any) -> torch.Tensor:
    """The positions of text tokens, which FLUX does not use."""
    return torch.zeros(tokens, 3, **place)
