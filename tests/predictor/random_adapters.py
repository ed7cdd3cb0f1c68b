"""LoRA files with random weights for any pipeline, written by diffusers' own calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"

DENOISER_LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "proj_out"]
TEXT_ENCODER_LAYERS = ["q_proj", "v_proj", "out_proj", "fc1"]


def write_adapter(
    pipeline: DiffusionPipeline,
    folder: Path,
    *,
    seed: int,
    components: tuple[str, ...],
    rank: int = 4,
    deviation: float = 0.15,
    **config: Any,
) -> Path:
    """Write an adapter for the pipeline's components to ``folder`` and return the file.

    The pipeline stays unchanged. ``deviation`` is the standard deviation of the weights: a larger
    one changes pictures more.
    """
    torch.manual_seed(seed)
    saved: dict[str, Any] = {}
    for name in components:
        module = getattr(pipeline, name)
        targets = TEXT_ENCODER_LAYERS if name.startswith("text_encoder") else DENOISER_LAYERS
        options = {"r": rank, "lora_alpha": rank, "target_modules": targets} | config
        module.add_adapter(LoraConfig(**options), "written")
        weights = get_peft_model_state_dict(module, adapter_name="written")
        saved[f"{name}_lora_layers"] = {
            key: deviation * torch.randn_like(value) for key, value in weights.items()
        }
        saved[f"{name}_lora_adapter_metadata"] = module.peft_config["written"].to_dict()
    pipeline.unload_lora_weights()
    pipeline.save_lora_weights(folder, **saved)
    return folder / WEIGHTS_NAME


def as_kohya(file: Path, target: Path, alpha: float) -> None:
    """Convert Stable Diffusion weights to the key names and alphas of kohya's trainer."""
    weights: dict[str, torch.Tensor] = {}
    for key, value in load_file(file).items():
        component, _, path = key.partition(".")
        path, _, part = path.rpartition(".lora_")
        prefix = {"unet": "lora_unet", "text_encoder": "lora_te"}[component]
        name = f"{prefix}_{path.replace('.', '_')}"
        weights[f"{name}.lora_{'down' if part.startswith('A') else 'up'}.weight"] = value
        weights[f"{name}.alpha"] = torch.tensor(alpha)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, target)
