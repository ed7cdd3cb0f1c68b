"""Volumes of several published models: the demo model under many names, large ones of chance."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from demo.run import MODEL, ROOT


def publish_folder(source: Path, name: str, volume: Path) -> Path:
    """Take a pipeline's folder through the downloader onto the volume."""
    flags = [f"--source={source.as_uri()}", f"--name={name}", f"--target={volume}"]
    subprocess.run([sys.executable, "-m", "downloader", *flags], cwd=ROOT, check=True)
    return volume / name


def save_wide_pipeline(folder: Path, width: int) -> int:
    """The demo model with a wider UNet of chance, saved in float16; its bytes in float32.

    Wide and of few pixels: it takes memory, not time. A width of 208 makes 450 MB.
    """
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline.from_pretrained(MODEL, variant="fp16", use_safetensors=True)
    widths = [width, 2 * width, 3 * width]
    config = {**pipeline.unet.config, "block_out_channels": widths}
    pipeline.unet = UNet2DConditionModel.from_config(config)
    pipeline.to(torch.float16).save_pretrained(folder, variant="fp16")
    return 4 * sum(weight.numel() for weight in pipeline.unet.parameters())
