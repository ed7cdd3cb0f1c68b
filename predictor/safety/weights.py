"""Loads the model of a safety layer, completely or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoImageProcessor


class Placement(NamedTuple):
    """Device, dtype and weight variant of a model; the variant of plain files is None."""

    device: torch.device
    dtype: torch.dtype
    variant: str | None


def load_processor(folder: Path) -> Any:
    """Load the image processor that ``preprocessor_config.json`` describes.

    Raises:
        Exception: it does not load.
    """
    return AutoImageProcessor.from_pretrained(_existing(folder), local_files_only=True)


def load_weights(model_class: Any, folder: Path, placement: Placement) -> Any:
    """Load a transformers model with all of its weights from the files in ``folder``.

    Raises:
        ValueError: weights are missing (transformers would fill in random ones), NaN or infinite.
        Exception: it does not load for another reason.
    """
    model, found = model_class.from_pretrained(
        _existing(folder),
        dtype=placement.dtype,
        variant=placement.variant,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    wrong = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))
    if wrong:
        raise ValueError(
            f"{len(wrong)} of its weights are missing from the files: {', '.join(wrong[:3])}"
        )
    for name, weights in model.named_parameters():
        if not torch.isfinite(weights).all():
            raise ValueError(f"{name} contains NaN or infinity")
    return model.to(placement.device).eval()


def _existing(folder: Path) -> Path:
    """Check that the folder exists; transformers takes a missing one for a repository name."""
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder.name}/ is missing")
    return folder
