"""A small random-weight SDXL refiner, and its publication on a volume with its base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
)

from downloader.download import download_model
from downloader.settings import Fetch
from downloader.sources.access import Access
from downloader.spec import read_models
from tests.predictor.random_pipelines import WIDTH, build_sdxl, build_sdxl_unet


def build_refiner(base: DiffusionPipeline) -> DiffusionPipeline:
    """Build a refiner that shares all components but the UNet with the base."""
    torch.manual_seed(1)
    unet = build_sdxl_unet(size_embeddings=5, text_width=WIDTH, transformer_layers=[1, 1])
    with torch.no_grad():
        # With the initial weights, the score would have almost no effect.
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


def save_pair(folder: Path) -> None:
    """Save the folders ``base`` and ``refiner`` as two separate pipelines."""
    base = build_sdxl()
    base.save_pretrained(folder / "base")
    build_refiner(base).save_pretrained(folder / "refiner")
    edit(folder / "refiner/text_encoder_2/config.json", {"_name_or_path": "/elsewhere"})


def publish(sources: Path, target: Path) -> Path:
    """Publish both with the downloader, from one file."""
    spec = target / "models.yaml"
    (target / "volume").mkdir()
    base, refiner = ((sources / name).as_uri() for name in ("base", "refiner"))
    spec.write_text(f"models: [{{name: sdxl, source: '{base}', refiner: '{refiner}'}}]")
    settings = Fetch(spec=spec, target=target / "volume")
    with Access(settings) as access:
        download_model(read_models(settings)[0], settings, access)
    return target / "volume" / "sdxl"


def edit(path: Path, changes: dict[str, Any]) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
