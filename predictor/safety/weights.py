"""A layer's own model: loaded whole, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoImageProcessor


class Placement(NamedTuple):
    """Where a model runs, in which type, and the variant of its weights; None for plain files."""

    device: torch.device
    dtype: torch.dtype
    variant: str | None


def load_processor(folder: Path) -> Any:
    """What makes a model's input of a picture, as ``preprocessor_config.json`` says.

    Raises:
        Exception: it does not load.
    """
    return AutoImageProcessor.from_pretrained(_existing(folder), local_files_only=True)


def load_weights(model_class: Any, folder: Path, placement: Placement) -> Any:
    """A transformers model that has all of its weights from the files in ``folder``.

    Raises:
        ValueError: some are missing, which transformers would make up by chance, or are NaN.
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
            f"{len(wrong)} of its weights are not in the files: {', '.join(wrong[:3])}"
        )
    for name, weights in model.named_parameters():
        if not torch.isfinite(weights).all():
            raise ValueError(f"{name} holds NaN or infinity")
    return model.to(placement.device).eval()


def _existing(folder: Path) -> Path:
    """The folder; transformers would take a missing one for the name of a repository."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no {folder.name}/")
    return folder
