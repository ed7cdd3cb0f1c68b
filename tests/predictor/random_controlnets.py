"""ControlNets with weights of chance that matter, for the pipelines of the tests."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ControlNetModel, DiffusionPipeline


def build_controlnet(pipeline: DiffusionPipeline, seed: int, **config: Any) -> ControlNetModel:
    """One for the pipeline's UNet; another one for another seed, or with another configuration.

    Untrained, a ControlNet is silent: the convolutions by which it speaks are zero.
    """
    # Of the pipelines here a latent is 4 pixels wide.
    usual = ControlNetModel.from_unet(
        pipeline.unet, conditioning_embedding_out_channels=(8, 16, 16), load_weights_from_unet=False
    ).config
    # Among the names with an underscore is the list of what diffusers would set to its defaults.
    public = {name: value for name, value in usual.items() if not name.startswith("_")}
    torch.manual_seed(seed)
    model = ControlNetModel.from_config(public | config)
    for part in (*model.controlnet_down_blocks, model.controlnet_mid_block):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    # As they come, its convolutions would pass on next to nothing of the control image.
    for parameter in model.controlnet_cond_embedding.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
            parameter.data *= 1.5
    return model.eval()
