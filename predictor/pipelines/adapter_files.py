"""The LoRA files beside a model: which there are, and which can be put on and taken off again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from modelstore.layout import ADAPTERS_FOLDER_NAME

logger = logging.getLogger(__name__)

# Diffusers' own name, which the downloader prefers too.
WEIGHTS_NAME = "pytorch_lora_weights.safetensors"


def find_adapters(model_dir: Path) -> dict[str, Path]:
    """The adapters of a published model: name to file, in the order of the names.

    Each is a folder in ``adapters/`` with diffusers' file, or with a single safetensors file of any
    name. Other files count for nothing; a folder without one to choose is left out, which the log
    tells.
    """
    folder = model_dir / ADAPTERS_FOLDER_NAME
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        files = sorted(path.glob("*.safetensors"))
        own = [file for file in files if file.name == WEIGHTS_NAME] or files
        if len(own) == 1:
            found[path.name] = own[0]
        else:
            logger.warning(
                "adapter %r is left out: %d safetensors files, none of them %s",
                path.name,
                len(files),
                WEIGHTS_NAME,
            )
    return found


def check_adds_only(file: Path, pipeline: Any) -> None:
    """Refuse what would change the model itself, beyond what can be taken off again.

    Diffusers writes whatever a file holds beside LoRA layers into the model, and widens layers of a
    transformer to those of the file: control LoRAs are made for that.

    Raises:
        ValueError: the file does.
        OSError, SafetensorError: it cannot be read.
    """
    with safe_open(file, framework="pt") as tensors:
        if "lora_controlnet" in tensors.keys():  # noqa: SIM118 - it is no dict
            raise ValueError("it is a control LoRA")
    transformer = pipeline.components.get("transformer")
    if transformer is None:
        return
    read = pipeline.lora_state_dict(
        file.parent, weight_name=file.name, use_safetensors=True, local_files_only=True
    )
    for key, weight in (read[0] if isinstance(read, tuple) else read).items():
        if "lora" not in key:
            raise ValueError(f"{key} is no LoRA layer")
        path, _, is_input = key.removeprefix("transformer.").partition(".lora_A.")
        width = getattr(_submodule(transformer, path), "in_features", None) if is_input else None
        if width not in (None, weight.shape[1]):
            raise ValueError(f"{key} takes {weight.shape[1]} channels, the layer {width}")


def _submodule(module: torch.nn.Module, path: str) -> torch.nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None
