"""More pipelines with random weights: SD 2.x, FLUX schnell, LCM, and an unknown class."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, T5Config, T5EncoderModel

from tests.predictor.random_pipelines import WIDTH, _text_config, _tokenizer, _vae, build_flux


def build_sd2() -> DiffusionPipeline:
    """Stable Diffusion 2.x: linear projections, v-prediction; 128x128 pixels."""
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=False,
    )
    unet = _unet(use_linear_projection=True, attention_head_dim=[2, 4])
    return _stable_diffusion(StableDiffusionPipeline, unet, scheduler)


def build_lcm_unet() -> DiffusionPipeline:
    """Stable Diffusion whose UNet takes guidance as an input; 128x128 pixels."""
    return _stable_diffusion(
        StableDiffusionPipeline, _unet(time_cond_proj_dim=16), _lcm_scheduler()
    )


def build_lcm() -> DiffusionPipeline:
    """The LCM pipeline, which does not accept a negative prompt; 128x128 pixels."""
    unet = _unet(time_cond_proj_dim=16)
    return _stable_diffusion(LatentConsistencyModelPipeline, unet, _lcm_scheduler())


def build_flux_schnell() -> DiffusionPipeline:
    """FLUX without guidance as an input; 128x128 pixels."""
    pipeline: Any = build_flux()
    transformer = pipeline.transformer
    config = dict(transformer.config) | {"guidance_embeds": False}
    pipeline.transformer = type(transformer).from_config(config)
    return pipeline


def build_pixart() -> DiffusionPipeline:
    """PixArt Sigma: a transformer with T5 and a noise schedule with betas; 128x128 pixels."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    transformer = PixArtTransformer2DModel(
        sample_size=32,
        patch_size=2,
        num_layers=1,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=WIDTH,
        caption_channels=WIDTH,
        out_channels=8,
        use_additional_conditions=False,
    )
    t5 = T5Config(vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1)
    return PixArtSigmaPipeline(
        vae=_vae(),
        # T5 has dropout, which ``from_pretrained`` would turn off.
        text_encoder=T5EncoderModel(t5).eval(),
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
    )


def _lcm_scheduler() -> LCMScheduler:
    return LCMScheduler(steps_offset=1, set_alpha_to_one=False)


def _stable_diffusion(
    pipeline_class: Any, unet: UNet2DConditionModel, scheduler: Any
) -> DiffusionPipeline:
    tokenizer = _tokenizer()
    pipeline: DiffusionPipeline = pipeline_class(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline


def _unet(**changes: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    settings = {
        "sample_size": 32,
        "block_out_channels": [WIDTH, WIDTH * 2],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": 4,
        "norm_num_groups": 8,
        "cross_attention_dim": WIDTH,
    }
    return UNet2DConditionModel(**settings | changes)
