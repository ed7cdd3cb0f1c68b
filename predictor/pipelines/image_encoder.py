"""The encoding half of the VAE: pictures to latents, the last ones remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from diffusers.utils.torch_utils import randn_tensor

# 2 MB each for a megapixel. The pictures of a call that share an input begin at about one time.
_MOST_REMEMBERED = 16


class ImageEncoder:
    """Draws latents, scaled as the denoiser takes them, in the order in which diffusers draws.

    What the VAE makes of a picture is a distribution, the same for every seed: it is that which is
    remembered.
    """

    def __init__(self, pipeline: Any, device: torch.device, dtype: torch.dtype) -> None:
        self._pipeline = pipeline
        self._device = device
        self._dtype = dtype
        self._remembered: OrderedDict[Hashable, Any] = OrderedDict()

    def latents(
        self, key: Hashable, pixels: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Latents drawn for ``pixels``, ``(1, 3, height, width)`` of -1 to 1, that ``key`` names.

        Returns ``(1, channels, height / 8, width / 8)``.
        """
        drawn = retrieve_latents(self._encoded(key, pixels), generator=generator)
        return self._scaled(drawn.to(self._dtype))

    def noise(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Noise of the variance 1 in the shape of the latents for ``pixels``."""
        noise: torch.Tensor = randn_tensor(
            self._shape(pixels), generator, self._device, self._dtype
        )
        return noise

    def skip_latents(self, key: Hashable, pixels: torch.Tensor, generator: torch.Generator) -> None:
        """Draw what ``latents`` would, for the sake of the draws after it."""
        retrieve_latents(self._encoded(key, pixels), generator=generator)

    def _encoded(self, key: Hashable, pixels: torch.Tensor) -> Any:
        if key not in self._remembered:
            vae = self._pipeline.vae
            # By the pipeline's type first, as diffusers does: an upcast VAE sees what others see.
            pixels = pixels.to(self._device, self._dtype).to(vae.dtype)
            self._remembered[key] = vae.encode(pixels)
        self._remembered.move_to_end(key)
        while len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return self._remembered[key]

    def _scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of what the decoder's side does; diffusers' inpainting forgets the mean."""
        vae = self._pipeline.vae
        factor = float(vae.config.scaling_factor)
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
    """Mean and deviation of the VAE's latents, ``(1, channels, 1, 1)``; None where untold."""
    statistics = [vae.config.get("latents_mean"), vae.config.get("latents_std")]
    if None in statistics:
        return None
    mean, std = (
        torch.tensor(values, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1)
        for values in statistics
    )
    return mean, std
