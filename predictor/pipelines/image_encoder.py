"""The encoder of the VAE: pictures to latents, with a cache of recent pictures."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from diffusers.utils.torch_utils import randn_tensor

from predictor.engine.transfers import upload_numbers

# 2 MB each for a megapixel. Pictures of one call that share an input start at about the same time.
_MAX_CACHED = 16


class ImageEncoder:
    """Draws latents, scaled for the denoiser, in the order in which diffusers draws them.

    The VAE encodes a picture to a distribution that does not depend on the seed, so the cache holds
    distributions.
    """

    def __init__(self, pipeline: Any, device: torch.device, dtype: torch.dtype) -> None:
        self._pipeline = pipeline
        self._device = device
        self._dtype = dtype
        self._cache: OrderedDict[Hashable, Any] = OrderedDict()

    def latents(
        self, key: Hashable, pixels: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Draw latents for ``pixels``, ``(1, 3, height, width)`` from -1 to 1.

        ``key`` identifies the pixels in the cache. Returns
        ``(1, channels, height / 8, width / 8)``.
        """
        drawn = retrieve_latents(self._encoded(key, pixels), generator=generator)
        return self._scaled(drawn.to(self._dtype))

    def noise(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw noise of unit variance in the shape of the latents for ``pixels``."""
        noise: torch.Tensor = randn_tensor(
            self._shape(pixels), generator, self._device, self._dtype
        )
        return noise

    def skip_latents(self, key: Hashable, pixels: torch.Tensor, generator: torch.Generator) -> None:
        """Advance the generator as ``latents`` would, so that later draws match diffusers'."""
        retrieve_latents(self._encoded(key, pixels), generator=generator)

    def _encoded(self, key: Hashable, pixels: torch.Tensor) -> Any:
        if key not in self._cache:
            vae = self._pipeline.vae
            # Round to the pipeline's dtype first, as diffusers does even for an upcast VAE.
            pixels = pixels.to(self._device, self._dtype).to(vae.dtype)
            self._cache[key] = vae.encode(pixels)
        self._cache.move_to_end(key)
        while len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)
        return self._cache[key]

    def _scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Invert the decoder's unscaling; diffusers' inpainting omits the mean."""
        vae = self._pipeline.vae
        factor = float(vae.config.scaling_factor)
        latents = latents - (vae.config.get("shift_factor") or 0.0)
        statistics = latent_statistics(vae, latents)
        if statistics is None:
            return latents * factor
        mean, std = statistics
        return (latents - mean) * factor / std

    def _shape(self, pixels: torch.Tensor) -> tuple[int, ...]:
        scale = self._pipeline.vae_scale_factor
        channels = self._pipeline.vae.config.latent_channels
        return (1, channels, pixels.shape[-2] // scale, pixels.shape[-1] // scale)


def latent_statistics(vae: Any, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Mean and standard deviation of the VAE's latents, ``(1, channels, 1, 1)``, if configured."""
    statistics = [vae.config.get("latents_mean"), vae.config.get("latents_std")]
    if None in statistics:
        return None
    mean, std = (
        upload_numbers(values, latents.device, latents.dtype).view(1, -1, 1, 1)
        for values in statistics
    )
    return mean, std
