"""The device and the dtype of a pipeline."""

from __future__ import annotations

import torch

from predictor.checkpoint.families import Family
from predictor.errors import ModelLoadError
from predictor.settings import Settings


def pick_device(settings: Settings) -> torch.device:
    """Return the device of the settings; ``auto`` is the GPU if there is one, else the CPU.

    Raises:
        ModelLoadError: the settings require CUDA and there is no GPU.
    """
    has_gpu = torch.cuda.is_available()
    if settings.device == "cuda" and not has_gpu:
        raise ModelLoadError(
            "device=cuda, but torch does not find a GPU: give the container one, or set device=auto"
        )
    if settings.device == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    return torch.device(settings.device)


def pick_dtype(settings: Settings, device: torch.device, family: Family) -> torch.dtype:
    """Return the dtype of the weights; half precision is faster on a GPU and slower on a CPU."""
    name: str = settings.dtype
    if name == "auto":
        name = family.gpu_dtype if device.type == "cuda" else "float32"
        if name == "bfloat16" and not torch.cuda.is_bf16_supported():
            name = "float16"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a GPU; None for a CPU, whose memory the whole pod shares."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
