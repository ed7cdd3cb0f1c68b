"""The encoder of the VAE: pictures to latents, with a cache of recent pictures."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, NamedTuple

import torch

from predictor.engine.transfers import host_memory, upload, upload_numbers

# 2 MB each for a megapixel. Pictures of one call that share an input start at about the same time.
_MAX_CACHED = 16


class HostTensors(NamedTuple):
    """What the encoder copies to the device: ``pixels``, ``(1, 3, height, width)`` from -1 to 1.

    ``noise`` is that of the latents, see ``ImageEncoder.noise_of_latents``.
    """

    pixels: torch.Tensor
    noise: torch.Tensor | None


class ImageEncoder:
    """Draws latents, scaled for the denoiser, in the order in which diffusers draws them.

    The VAE encodes a picture to a distribution that does not depend on the seed, so the cache holds
    distributions. Only ``latents`` uses the device; any thread may call the other methods.
    """

    def __init__(self, pipeline: Any, device: torch.device, dtype: torch.dtype) -> None:
        self._pipeline = pipeline
        self.device = device
        self._dtype = dtype
        # The only VAE of diffusers whose latents are not a distribution.
        self._draws = type(pipeline.vae).__name__ != "AutoencoderTiny"
        self._cache: OrderedDict[Hashable, Any] = OrderedDict()

    def on_host(self, pixels: torch.Tensor, generator: torch.Generator) -> HostTensors:
        """What ``latents`` needs of ``pixels``."""
        # Rounded to the pipeline's dtype first, as in diffusers, even for an upcast VAE.
        return HostTensors(self.copied(pixels), self.noise_of_latents(pixels, generator))

    def noise_of_latents(
        self, pixels: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor | None:
        """Draw the noise of ``latents`` for ``pixels``, on the host; None if the VAE draws none."""
        return self._drawn(pixels, generator, self._pipeline.vae.dtype) if self._draws else None

    def noise(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw noise of unit variance in the shape of the latents for ``pixels``, on the host."""
        return self._drawn(pixels, generator, self._dtype)

    def copied(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor in the pipeline's dtype, in memory of the host to ``upload`` from."""
        return host_memory(tensor.shape, self.device, self._dtype).copy_(tensor)

    def latents(self, key: Hashable, host: HostTensors) -> torch.Tensor:
        """Encode pixels to ``(1, channels, height / 8, width / 8)``.

        ``key`` identifies the pixels in the cache.
        """
        encoded = self._encoded(key, host.pixels)
        if host.noise is None:
            return self._scaled(encoded.latents.to(self._dtype))
        distribution = encoded.latent_dist
        drawn = distribution.mean + distribution.std * upload(host.noise, self.device)
        return self._scaled(drawn.to(self._dtype))

    def _drawn(
        self, pixels: torch.Tensor, generator: torch.Generator, dtype: torch.dtype
    ) -> torch.Tensor:
        host = host_memory(self._shape(pixels), self.device, dtype)
        return torch.randn(host.shape, generator=generator, dtype=dtype, out=host)

    def _encoded(self, key: Hashable, pixels: torch.Tensor) -> Any:
        if key not in self._cache:
            vae = self._pipeline.vae
            self._cache[key] = vae.encode(upload(pixels, self.device).to(vae.dtype))
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
