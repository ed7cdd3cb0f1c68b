"""Safety checkers and classifiers with random weights that always or never fire."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from modelstore import Marker

SIDE = 32
LABELS = ("neutral", "drawing", "lewd", "gore")
_TINY = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 16,
}


def copy_model(published: Path, folder: Path) -> Path:
    """Copy a published folder to add layers to; the copy's marker lists no files."""
    shutil.copytree(published, folder)
    replace(Marker.read(folder), files=()).write(folder)
    return folder


def add_checker(folder: Path, *, fires: bool) -> Path:
    """Add a safety checker like Stable Diffusion 1.5's, and return the same folder."""
    save_checker(folder, fires=fires)
    index_path = folder / "model_index.json"
    index = json.loads(index_path.read_text("utf-8")) | {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "requires_safety_checker": True,
    }
    index_path.write_text(json.dumps(index), "utf-8")
    return folder


def save_checker(folder: Path, *, fires: bool) -> None:
    """Save only ``safety_checker/`` and ``feature_extractor/``."""
    torch.manual_seed(0)
    text = {
        name: value for name, value in _TINY.items() if name not in ("image_size", "patch_size")
    }
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config=_TINY, text_config=text, projection_dim=16)
    )
    # A cosine is between -1 and 1, so it always exceeds the first threshold and never the second.
    checker.concept_embeds_weights.fill_(-2.0 if fires else 2.0)
    checker.special_care_embeds_weights.fill_(2.0)
    checker.save_pretrained(folder / "safety_checker")
    size = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size).save_pretrained(
        folder / "feature_extractor"
    )


def save_classifier(folder: Path, likely: dict[str, float] | None = None, **config: object) -> Path:
    """Save a classifier whose logits are those of ``likely`` and 0 for every picture."""
    torch.manual_seed(0)
    names = dict(enumerate(LABELS))
    model = ViTForImageClassification(ViTConfig(**_TINY, id2label=names, **config))
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([(likely or {}).get(one, 0.0) for one in LABELS]))
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def change_weights(file: Path, changes: dict[str, torch.Tensor | None]) -> None:
    """Rewrite the file with changed tensors; None removes a tensor."""
    tensors = {**load_file(file), **changes}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, file, metadata={"format": "pt"})
