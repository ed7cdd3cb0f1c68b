"""Volumes of several models: the demo model under many names, and large random-weight models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from demo.run import MODEL, ROOT


def publish_folder(source: Path, name: str, volume: Path) -> Path:
    """Publish a pipeline's folder on the volume with the downloader."""
    flags = [f"--source={source.as_uri()}", f"--name={name}", f"--target={volume}"]
    subprocess.run([sys.executable, "-m", "downloader", *flags], cwd=ROOT, check=True)
    return volume / name


def save_wide_pipeline(folder: Path, width: int) -> int:
    """Save the demo model with a wider random-weight UNet in float16; return its bytes in float32.

    Wide layers and few pixels take memory but not time. A width of 208 gives 450 MB.
    """
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline.from_pretrained(MODEL, variant="fp16", use_safetensors=True)
    widths = [width, 2 * width, 3 * width]
    config = {**pipeline.unet.config, "block_out_channels": widths}
    pipeline.unet = UNet2DConditionModel.from_config(config)
    pipeline.to(torch.float16).save_pretrained(folder, variant="fp16")
    return 4 * sum(weight.numel() for weight in pipeline.unet.parameters())
