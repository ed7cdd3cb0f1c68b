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
from predictor.pipelines.image_encoder import ImageEncoder
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


def begin_image_to_image(
    request: GenerationRequest, steps: Steps, pipeline: Any, encoder: ImageEncoder
) -> Start:
    """Start as ``StableDiffusionImg2ImgPipeline`` and those of SDXL, SD3 and FLUX do."""
    assert request.image is not None
    generator = generator_for(request)
    pixels = pixels_of(request.image, pipeline)
    clean = encoder.latents(request.image.sha256, pixels, generator)
    noise = encoder.noise(pixels, generator)
    return Start(steps.add_noise(clean, noise), generator)


def pixels_of(image: InputImage, pipeline: Any) -> torch.Tensor:
    """Return the image as ``(1, 3, height, width)`` from -1 to 1, on the CPU."""
    pixels: torch.Tensor = pipeline.image_processor.preprocess(image.image)
    return pixels


def begin_inpainting(
    request: GenerationRequest, steps: Steps, pipeline: Any, encoder: ImageEncoder
) -> Start:
    """Start as ``StableDiffusionInpaintPipeline`` and those of SDXL, SD3 and FLUX do."""
    assert request.image is not None
    assert request.mask_image is not None
    unet = getattr(pipeline, "unet", None)
    sees_mask = unet is not None and unet.config.in_channels == INPAINTING_CHANNELS
    is_all_noise = request.strength == 1
    generator = generator_for(request)
    pixels = pixels_of(request.image, pipeline)
    mask = _mask_pixels(request.mask_image, pipeline)
    # Draw in diffusers' order: the picture, the noise, the masked picture, even if the last one is
    # not used.
    clean = None
    if not (sees_mask and is_all_noise):
        clean = encoder.latents(request.image.sha256, pixels, generator)
    noise = encoder.noise(pixels, generator)
    latents = noise * steps.init_noise_sigma
    if clean is not None and not is_all_noise:
        latents = steps.add_noise(clean, noise)
    latent_mask = _latent_mask(mask, noise)
    if sees_mask:
        key = (request.image.sha256, request.mask_image.sha256)
        masked = encoder.latents(key, pixels * (mask < 0.5), generator)
        return Start(latents, generator, torch.cat([latent_mask, masked], dim=1))
    assert clean is not None
    encoder.skip_latents(request.image.sha256, pixels, generator)
    original = torch.cat([clean, noise]).float()
    return Start(latents, generator, inpainting=Inpainting(original, latent_mask.float()))


def _mask_pixels(mask: InputImage, pipeline: Any) -> torch.Tensor:
    """Return the mask as ``(1, 1, height, width)`` on the CPU: 1 in the area to repaint, else 0."""
    processor = VaeImageProcessor(
        vae_scale_factor=pipeline.vae_scale_factor,
        do_normalize=False,
        do_binarize=True,
        do_convert_grayscale=True,
    )
    pixels: torch.Tensor = processor.preprocess(mask.image)
    return pixels


def _latent_mask(mask: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(mask, size=latents.shape[-2:]).to(
        latents.device, latents.dtype
    )
