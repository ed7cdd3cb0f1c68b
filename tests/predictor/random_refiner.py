"""SDXL's refiner with weights of chance, built small."""

from __future__ import annotations

import torch
from diffusers import (
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    UNet2DConditionModel,
)

from tests.predictor.random_pipelines import WIDTH


def build_refiner(base: DiffusionPipeline) -> DiffusionPipeline:
    """One text encoder, a UNet conditioned on a score; all but the UNet is the base's own."""
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=[WIDTH, WIDTH * 2],
        layers_per_block=1,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        attention_head_dim=[2, 4],
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=[1, 1],
        projection_class_embeddings_input_dim=5 * 8 + WIDTH,
        cross_attention_dim=WIDTH,
    )
    with torch.no_grad():
        # By chance it would hardly change a picture, right or wrong.
        unet.conv_out.weight.mul_(6)
    return StableDiffusionXLImg2ImgPipeline(
        vae=base.vae,
        text_encoder=None,
        text_encoder_2=base.text_encoder_2,
        tokenizer=None,
        tokenizer_2=base.tokenizer_2,
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
    )
