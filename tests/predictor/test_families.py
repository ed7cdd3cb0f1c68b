"""The family of a folder, recognised by the configurations of published checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from predictor.checkpoint.configs import Configs
from predictor.checkpoint.families import FAMILIES, family_of
from predictor.errors import ModelLoadError

SD = "StableDiffusionPipeline"
XL = "StableDiffusionXLPipeline"
SD2_UNET = {"cross_attention_dim": 1024, "use_linear_projection": True, "sample_size": 96}
XL_UNET = {"cross_attention_dim": 2048, "use_linear_projection": True, "sample_size": 128}
TRAILING = {"timestep_spacing": "trailing", "prediction_type": "epsilon"}

# Class, denoiser, scheduler and family, as in the named checkpoints.
CHECKPOINTS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "stable-diffusion-v1-5": (SD, {"cross_attention_dim": 768, "sample_size": 64}, {}, "sd1"),
    "stable-diffusion-inpainting": (
        "StableDiffusionInpaintPipeline",
        {"cross_attention_dim": 768, "sample_size": 64, "in_channels": 9},
        {},
        "sd1",
    ),
    "stable-diffusion-2-1": (SD, SD2_UNET, {"prediction_type": "v_prediction"}, "sd2"),
    "stable-diffusion-2-1-base": (SD, SD2_UNET | {"sample_size": 64}, {}, "sd2"),
    "sd-turbo": (SD, SD2_UNET | {"sample_size": 64}, TRAILING, "sd2-turbo"),
    "stable-diffusion-xl-base-1.0": (XL, XL_UNET, {"timestep_spacing": "leading"}, "sdxl"),
    "stable-diffusion-xl-refiner-1.0": (
        "StableDiffusionXLImg2ImgPipeline",
        XL_UNET | {"cross_attention_dim": 1280},
        {},
        "sdxl",
    ),
    "sdxl-turbo": (XL, XL_UNET | {"sample_size": 64}, TRAILING, "sdxl-turbo"),
    "an SDXL with zero terminal SNR": (
        XL,
        XL_UNET,
        {"timestep_spacing": "trailing", "prediction_type": "v_prediction"},
        "sdxl",
    ),
    "stable-diffusion-xl-1.0-inpainting-0.1": (
        "StableDiffusionXLInpaintPipeline",
        XL_UNET | {"in_channels": 9},
        {},
        "sdxl-inpainting",
    ),
    "LCM_Dreamshaper_v7": (
        "LatentConsistencyModelPipeline",
        {"cross_attention_dim": 768, "sample_size": 96, "time_cond_proj_dim": 256},
        {},
        "lcm",
    ),
    "an SDXL with lcm-sdxl": (XL, XL_UNET | {"time_cond_proj_dim": 256}, {}, "lcm"),
    "stable-diffusion-3-medium": ("StableDiffusion3Pipeline", {"num_layers": 24}, {}, "sd3"),
    "stable-diffusion-3.5-large": (
        "StableDiffusion3Pipeline",
        {"qk_norm": "rms_norm", "dual_attention_layers": []},
        {},
        "sd3.5-large",
    ),
    "stable-diffusion-3.5-medium": (
        "StableDiffusion3Pipeline",
        {"qk_norm": "rms_norm", "dual_attention_layers": [0, 1, 2]},
        {},
        "sd3.5-medium",
    ),
    "FLUX.1-dev": ("FluxPipeline", {"guidance_embeds": True}, {}, "flux-dev"),
    "FLUX.1-schnell": ("FluxPipeline", {"guidance_embeds": False}, {}, "flux-schnell"),
    "PixArt-Sigma": ("PixArtSigmaPipeline", {"sample_size": 128}, {}, "unknown"),
}


def folder_of(
    root: Path, class_name: str, denoiser: dict[str, Any], scheduler: dict[str, Any]
) -> Path:
    is_transformer = class_name.startswith(("StableDiffusion3", "Flux", "PixArt"))
    files = {
        "model_index.json": {"_class_name": class_name},
        f"{'transformer' if is_transformer else 'unet'}/config.json": denoiser,
        "scheduler/scheduler_config.json": scheduler,
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_a_published_checkpoint_is_recognised(checkpoint: str, tmp_path: Path) -> None:
    class_name, denoiser, scheduler, family = CHECKPOINTS[checkpoint]

    assert family_of(Configs(folder_of(tmp_path, class_name, denoiser, scheduler))).name == family


def test_every_family_has_a_checkpoint() -> None:
    assert {family for *_, family in CHECKPOINTS.values()} == {one.name for one in FAMILIES}


def test_the_demo_model_is_recognised(demo_model: Path) -> None:
    assert family_of(Configs(demo_model)).name == "sd1"


def test_a_configuration_that_is_not_json_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{")

    with pytest.raises(ModelLoadError, match=r"model_index\.json is not valid JSON"):
        family_of(Configs(tmp_path))
