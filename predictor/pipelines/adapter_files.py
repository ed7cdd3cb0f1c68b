"""The LoRA files beside a model: which there are, and which can be put on and taken off again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

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


def check_adds_only(file: Path, denoiser: Any) -> None:
    """Refuse what would change the model itself, beyond what can be taken off again.

    Control LoRAs replace norms and widen the input layer, in diffusers for good.

    Raises:
        ValueError: the file is none, or is one of these.
        OSError, SafetensorError: it cannot be read.
    """
    with safe_open(file, framework="pt") as tensors:
        for key in tensors.keys():  # noqa: SIM118 - it is no dict
            if "lora_controlnet" in key or ("norm" in key and "lora" not in key):
                raise ValueError(f"it is a control LoRA: {key}")
            if key.endswith(("x_embedder.lora_A.weight", "img_in.lora_A.weight")):
                width = tensors.get_slice(key).get_shape()[1]
                if width != denoiser.x_embedder.in_features:
                    raise ValueError(f"it is a control LoRA: {key} takes {width} channels")
