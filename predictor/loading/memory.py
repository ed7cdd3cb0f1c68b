"""How much memory models may take together, what one takes, and how it is given back."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.errors import ModelLoadError
from predictor.settings import Settings

GIB = 2**30
# What the weights may take of a device: the rest is for the pictures in work and for loading.
_SHARE_OF_WEIGHTS = 0.75
# The memory limit of this container, in both versions of the kernel's interface.
_CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def budget_bytes(settings: Settings) -> int:
    """What the weights of all loaded models may take together; asked once, before the first."""
    if settings.memory_budget_gib:
        return int(settings.memory_budget_gib * GIB)
    import torch

    from predictor.checkpoint.placement import pick_device

    device = pick_device(settings)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * _SHARE_OF_WEIGHTS)
    return int(_main_memory() * _SHARE_OF_WEIGHTS)


def expected_bytes(checkpoint: Checkpoint, settings: Settings) -> int:
    """What the published model will take once it is loaded, by the headers of its files.

    Raises:
        ModelLoadError: a file cannot be read.
    """
    from predictor.checkpoint.placement import pick_device, pick_dtype

    try:
        paths = [checkpoint.folder / entry.path for entry in checkpoint.marker.files]
        weights = [_number_of_weights(path) for path in paths if path.suffix == ".safetensors"]
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(f"the weights cannot be read: {error}") from None
    return sum(weights) * pick_dtype(settings, pick_device(settings), checkpoint.family).itemsize


def tensor_bytes(pipeline: Any) -> int:
    """What the parts of a loaded pipeline take."""
    parts = [part for part in pipeline.components.values() if hasattr(part, "parameters")]
    tensors = {
        id(tensor): tensor.nbytes
        for part in parts
        for tensor in (*part.parameters(), *part.buffers())
    }
    return sum(tensors.values())


def release_memory() -> None:
    """Give back to the device and to the system what nothing refers to any more."""
    import torch

    # A pipeline is full of cycles.
    gc.collect()
    torch.cuda.empty_cache()
    # The GNU C library keeps what is freed in pieces; other libraries have no such call.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _number_of_weights(path: Path) -> int:
    """How many numbers a safetensors file holds, by its header alone."""
    with safe_open(path, framework="numpy") as file:
        return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - it is no dict


def _main_memory() -> int:
    """Bytes that this container may take, or that the machine has."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CONTAINER_LIMITS:
        # No limit is "max" in one version, no file in the other.
        with contextlib.suppress(OSError, ValueError):
            sizes.append(int(path.read_text()))
    return min(sizes)
