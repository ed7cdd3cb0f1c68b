"""Which device and which number type the pipeline runs on."""

from __future__ import annotations

import torch

from predictor.checkpoint.families import Family
from predictor.errors import ModelLoadError
from predictor.settings import Settings


def pick_device(settings: Settings) -> torch.device:
    """The device that the settings name, or the GPU where there is one.

    Raises:
        ModelLoadError: CUDA is asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if settings.device == "cuda" and not has_gpu:
        raise ModelLoadError(
            "device=cuda but torch sees no GPU: give the container one, or set device=auto"
        )
    if settings.device == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    return torch.device(settings.device)


def pick_dtype(settings: Settings, device: torch.device, family: Family) -> torch.dtype:
    """The weights' type: half precision pays on a GPU and costs time on a CPU."""
    name: str = settings.dtype
    if name == "auto":
        name = family.gpu_dtype if device.type == "cuda" else "float32"
        if name == "bfloat16" and not torch.cuda.is_bf16_supported():
            name = "float16"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a GPU; None for a CPU, whose memory the whole pod shares."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
