"""Pipelines with real shapes and random weights: as slow and as large as the real models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from demo.shapes import all_scenes
from demo.tokenizer import build_tokenizer

_LARGE_ON_A_CPU = {
    "sample_size": 32,
    "block_out_channels": (96, 192, 288),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 256,
}


def large_on_a_cpu() -> DiffusionPipeline:
    """A UNet that is bound by arithmetic on a few CPU cores: 25 M weights, 256x256 pixels."""
    return _stable_diffusion(_LARGE_ON_A_CPU, text_width=256, vae_channels=[16, 32, 32, 32])


def stable_diffusion_1_5() -> DiffusionPipeline:
    """The shapes of Stable Diffusion 1.5: a UNet of 860 M weights, 512x512 pixels."""
    return _stable_diffusion(
        {"sample_size": 64, "attention_head_dim": 8, "cross_attention_dim": 768},
        text_width=768,
        vae_channels=[128, 256, 512, 512],
    )


def stable_diffusion_xl() -> DiffusionPipeline:
    """The shapes of SDXL's base: a UNet of 2.6 G weights, 1024x1024 pixels."""
    return _stable_diffusion_xl(1024, (320, 640, 1280), (1, 2, 10), (12, 32))


def tiny() -> DiffusionPipeline:
    """A pipeline of 64x64 pixels to try a benchmark out; its figures mean nothing."""
    unet = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 8,
        "cross_attention_dim": 64,
    }
    return _stable_diffusion(unet, text_width=64, vae_channels=[16, 16, 16, 16])


def decoder_of_stable_diffusion() -> DiffusionPipeline:
    """The decoder of Stable Diffusion 1.5 behind a UNet of 25 M weights, 192x192 pixels."""
    return _stable_diffusion(
        {**_LARGE_ON_A_CPU, "sample_size": 24}, text_width=256, vae_channels=[128, 256, 512, 512]
    )


def decoder_of_sdxl() -> DiffusionPipeline:
    """SDXL with its decoder and everything else a fifth as wide, 192x192 pixels."""
    return _stable_diffusion_xl(192, (64, 128, 256), (1, 1, 2), (2, 2))


def stable_diffusion_3_on_a_cpu() -> DiffusionPipeline:
    """Stable Diffusion 3 without T5, small enough for a CPU: 47 k weights, 128x128 pixels."""
    tokenizer = build_tokenizer(scene.prompt for scene in all_scenes())
    encoders = [CLIPTextModelWithProjection(_text_config(tokenizer, 64, layers=2)) for _ in "12"]
    return StableDiffusion3Pipeline(
        vae=_vae([16, 16, 32, 32], sample_size=128, latent_channels=16, shift_factor=0.06),
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        text_encoder_3=None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=None,
        transformer=SD3Transformer2DModel(
            sample_size=16,
            num_layers=4,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_projection_dim=16,
            joint_attention_dim=128,
            pooled_projection_dim=128,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux_on_a_cpu() -> DiffusionPipeline:
    """FLUX with guidance as an input, small enough for a CPU: 50 k weights."""
    tokenizer = build_tokenizer(scene.prompt for scene in all_scenes())
    t5 = T5Config(vocab_size=len(tokenizer), d_model=64, d_kv=16, d_ff=128, num_layers=2)
    return FluxPipeline(
        vae=_vae([16, 16, 32, 32], sample_size=128, latent_channels=16, shift_factor=0.06),
        text_encoder=CLIPTextModel(_text_config(tokenizer, 64, layers=2)),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        transformer=FluxTransformer2DModel(
            num_layers=2,
            num_single_layers=4,
            attention_head_dim=16,
            num_attention_heads=1,
            joint_attention_dim=64,
            pooled_projection_dim=64,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )


def save(build: Callable[[], DiffusionPipeline], folder: Path) -> None:
    """Write the pipeline's folder unless it exists; the weights are always the same."""
    if not (folder / "model_index.json").exists():
        torch.manual_seed(0)
        build().save_pretrained(folder)


def _stable_diffusion(
    unet: dict[str, Any], text_width: int, vae_channels: list[int]
) -> DiffusionPipeline:
    tokenizer = build_tokenizer(scene.prompt for scene in all_scenes())
    return StableDiffusionPipeline(
        vae=_vae(vae_channels, sample_size=8 * unet["sample_size"]),
        text_encoder=CLIPTextModel(_text_config(tokenizer, text_width, layers=12)),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**unet),
        scheduler=PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _stable_diffusion_xl(
    side: int, widths: tuple[int, ...], depths: tuple[int, ...], text_layers: tuple[int, int]
) -> DiffusionPipeline:
    tokenizer = build_tokenizer(scene.prompt for scene in all_scenes())
    unet = UNet2DConditionModel(
        sample_size=side // 8,
        block_out_channels=widths,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=[width // 64 for width in widths],
        transformer_layers_per_block=depths,
        use_linear_projection=True,
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return StableDiffusionXLPipeline(
        vae=_vae([128, 256, 512, 512], sample_size=side),
        text_encoder=CLIPTextModel(_text_config(tokenizer, 768, layers=text_layers[0])),
        text_encoder_2=CLIPTextModelWithProjection(
            _text_config(tokenizer, 1280, layers=text_layers[1])
        ),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
    )


def _vae(channels: list[int], sample_size: int, **changes: Any) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=channels,
        layers_per_block=2,
        norm_num_groups=min(32, channels[0] // 2),
        sample_size=sample_size,
        # The cast keeps the real SDXL weights from overflowing; random ones do not need it.
        force_upcast=False,
        **changes,
    )


def _text_config(tokenizer: Any, width: int, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
