"""Random-weight inpainting checkpoints: UNets that take the mask and the masked picture."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)

from predictor.pipelines.image_to_image import INPAINTING_CHANNELS
from tests.predictor.random_pipelines import build_sd3, build_sdxl


def build_sd_inpainting(plain: StableDiffusionPipeline) -> DiffusionPipeline:
    """Stable Diffusion for inpainting, with the other components of a plain pipeline."""
    parts = plain.components | {"unet": _with_mask_channels(plain.unet)}
    return StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)


def build_sdxl_inpainting() -> DiffusionPipeline:
    """Stable Diffusion XL for inpainting."""
    plain = build_sdxl()
    parts = plain.components | {"unet": _with_mask_channels(plain.unet)}
    return StableDiffusionXLInpaintPipeline(**parts)


def build_sd3_of_16_channels() -> DiffusionPipeline:
    """Stable Diffusion 3 with the 16 latent channels that inpainting requires."""
    pipeline = build_sd3()
    torch.manual_seed(1)
    transformer = SD3Transformer2DModel.from_config(
        pipeline.transformer.config, in_channels=16, out_channels=16
    )
    vae = AutoencoderKL.from_config(pipeline.vae.config, latent_channels=16)
    return StableDiffusion3Pipeline(
        **pipeline.components | {"transformer": transformer, "vae": vae}
    )


def _with_mask_channels(plain: UNet2DConditionModel) -> UNet2DConditionModel:
    torch.manual_seed(1)
    return UNet2DConditionModel.from_config(plain.config, in_channels=INPAINTING_CHANNELS)
