"""Small pipelines of other families with random weights, built from configurations."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

from demo.shapes import all_scenes
from demo.tokenizer import build_tokenizer

WIDTH = 32


def build_sdxl() -> DiffusionPipeline:
    """Stable Diffusion XL: two text encoders, micro-conditioning on sizes; 128x128 pixels."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    unet = build_sdxl_unet(size_embeddings=6, text_width=WIDTH * 2, transformer_layers=[1, 2])
    return StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
    )


def build_sdxl_unet(
    *, size_embeddings: int, text_width: int, transformer_layers: list[int]
) -> UNet2DConditionModel:
    """The UNet of the base or the refiner, which differ in their conditioning."""
    return UNet2DConditionModel(
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
        transformer_layers_per_block=transformer_layers,
        projection_class_embeddings_input_dim=size_embeddings * 8 + WIDTH,
        cross_attention_dim=text_width,
    )


def build_sd3() -> DiffusionPipeline:
    """Stable Diffusion 3 without its T5 encoder: a flow-matching transformer; 128x128 pixels."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=WIDTH,
        joint_attention_dim=WIDTH * 2,
        pooled_projection_dim=WIDTH * 2,
    )
    return StableDiffusion3Pipeline(
        vae=_vae(),
        text_encoder=CLIPTextModelWithProjection(_text_config(tokenizer)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer)),
        text_encoder_3=None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=None,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def build_flux() -> DiffusionPipeline:
    """FLUX with guidance as an input, so one pass per step; 128x128 pixels."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    t5 = T5Config(vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1)
    return FluxPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        # T5 has dropout, which ``from_pretrained`` would turn off.
        text_encoder_2=T5EncoderModel(t5).eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def _tokenizer() -> CLIPTokenizer:
    return build_tokenizer(scene.prompt for scene in all_scenes())


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[8, 16, 16],
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=128,
        shift_factor=0.0,
    )


def _text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
