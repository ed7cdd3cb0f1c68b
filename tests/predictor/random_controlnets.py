"""ControlNets with random weights that affect the picture, for the pipelines of the tests."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ControlNetModel, DiffusionPipeline


def build_controlnet(pipeline: DiffusionPipeline, seed: int, **config: Any) -> ControlNetModel:
    """Build a ControlNet for the pipeline's UNet from a seed and configuration changes.

    The output convolutions of an untrained ControlNet are zero, so they get random weights.
    """
    # A latent of these pipelines covers 4 pixels.
    usual = ControlNetModel.from_unet(
        pipeline.unet, conditioning_embedding_out_channels=(8, 16, 16), load_weights_from_unet=False
    ).config
    # ``_use_default_values`` would reset values to diffusers' defaults.
    public = {name: value for name, value in usual.items() if not name.startswith("_")}
    torch.manual_seed(seed)
    model = ControlNetModel.from_config(public | config)
    for part in (*model.controlnet_down_blocks, model.controlnet_mid_block):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    # With the initial weights, the control image would have almost no effect.
    for parameter in model.controlnet_cond_embedding.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
            parameter.data *= 1.5
    return model.eval()
