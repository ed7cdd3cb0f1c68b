"""Image to image and inpainting: the initial latents for an input picture.

Image to image starts from the picture with as much noise as ``strength`` requests. Inpainting
repaints the white area of the mask. An inpainting UNet takes the mask and the masked picture as
five extra channels. For any other UNet, the area outside the mask is restored after each step, at
the noise level of that step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from diffusers.image_processor import VaeImageProcessor

from predictor.engine.denoising import Inpainting, Steps
from predictor.engine.transfers import upload
from predictor.pipelines.image_encoder import HostTensors, ImageEncoder
from predictor.pipelines.prepared import Prepared
from predictor.pipelines.schedulers import generator_for
from predictor.requests import GenerationRequest, InputImage

# Four channels of latents, one of the mask, and four of the masked picture's latents.
INPAINTING_CHANNELS = 9


class Start(NamedTuple):
    """Where a picture starts; see ``Denoising``."""

    latents: torch.Tensor
    generator: torch.Generator
    extra_channels: torch.Tensor | None = None
    inpainting: Inpainting | None = None


class _OnHost(NamedTuple):
    """The part of a start that needs no device, in memory from which the device copies.

    ``noise`` and ``latent_mask``, ``(1, 1, height, width)``, are those of latents. ``clean`` is for
    the latents of the picture, and ``masked`` for those of the picture without the area to repaint.
    """

    generator: torch.Generator
    noise: torch.Tensor
    clean: HostTensors | None
    latent_mask: torch.Tensor | None = None
    masked: HostTensors | None = None


class ImageStarts:
    """Starts pictures as diffusers' image-to-image and inpainting pipelines do.

    Only ``begin`` uses the device; any thread may call ``prepare``.
    """

    def __init__(self, pipeline: Any, encoder: ImageEncoder) -> None:
        self._encoder = encoder
        self._image_processor: Any = pipeline.image_processor
        self._mask_processor = VaeImageProcessor(
            vae_scale_factor=pipeline.vae_scale_factor,
            do_normalize=False,
            do_binarize=True,
            do_convert_grayscale=True,
        )
        unet = getattr(pipeline, "unet", None)
        self._sees_mask = unet is not None and unet.config.in_channels == INPAINTING_CHANNELS
        self._on_host = Prepared(self._host_part)

    def prepare(self, request: GenerationRequest) -> None:
        """Convert the pictures and draw the noise in advance."""
        self._on_host.prepare(request)

    def begin(self, request: GenerationRequest, steps: Steps) -> Start:
        """The start of a request with an ``image``, and perhaps a ``mask_image``."""
        assert request.image is not None
        host = self._on_host.take(request)
        noise = upload(host.noise, self._encoder.device)
        clean = host.clean and self._encoder.latents(request.image.sha256, host.clean)
        if clean is None or _is_all_noise(request):
            latents = noise * steps.init_noise_sigma
        else:
            latents = steps.add_noise(clean, noise)
        if host.latent_mask is None:
            return Start(latents, host.generator)
        mask = upload(host.latent_mask, self._encoder.device)
        if host.masked is not None:
            assert request.mask_image is not None
            key = (request.image.sha256, request.mask_image.sha256)
            masked = self._encoder.latents(key, host.masked)
            return Start(latents, host.generator, torch.cat([mask, masked], dim=1))
        assert clean is not None
        inpainting = Inpainting(torch.cat([clean, noise]).float(), mask.float())
        return Start(latents, host.generator, inpainting=inpainting)

    def _host_part(self, request: GenerationRequest) -> _OnHost:
        """Draw in diffusers' order: the picture, the noise, the masked picture."""
        assert request.image is not None
        encoder, generator = self._encoder, generator_for(request)
        pixels: torch.Tensor = self._image_processor.preprocess(request.image.image)
        clean = None
        if not (self._sees_mask and _is_all_noise(request)):
            clean = encoder.on_host(pixels, generator)
        noise = encoder.noise(pixels, generator)
        if request.mask_image is None:
            return _OnHost(generator, noise, clean)
        mask = self._mask_pixels(request.mask_image)
        latent_mask = encoder.copied(torch.nn.functional.interpolate(mask, size=noise.shape[-2:]))
        masked = None
        if self._sees_mask:
            masked = encoder.on_host(pixels * (mask < 0.5), generator)
        else:
            # diffusers draws it without using it.
            encoder.noise_of_latents(pixels, generator)
        return _OnHost(generator, noise, clean, latent_mask, masked)

    def _mask_pixels(self, mask: InputImage) -> torch.Tensor:
        """``(1, 1, height, width)``: 1 in the area to repaint, else 0."""
        pixels: torch.Tensor = self._mask_processor.preprocess(mask.image)
        return pixels


def _is_all_noise(request: GenerationRequest) -> bool:
    """Whether nothing of the input picture is in the first latents."""
    return request.mask_image is not None and request.strength == 1
