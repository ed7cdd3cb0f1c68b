"""The memory budget of all models, the memory of one model, how to release it, and shortages."""

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
# Fraction of the device's memory for weights; the rest is for pictures in flight and for loading.
_SHARE_OF_WEIGHTS = 0.75
# The memory limit of this container in cgroup v2 and v1.
_CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def budget_bytes(settings: Settings) -> int:
    """Return the bytes that all loaded models may take together; call before loading the first."""
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
    """Estimate the bytes of a published model once loaded, from the headers of its files.

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
    """Return the bytes of all tensors of a loaded pipeline."""
    parts = [part for part in pipeline.components.values() if hasattr(part, "parameters")]
    tensors = {
        id(tensor): tensor.nbytes
        for part in parts
        for tensor in (*part.parameters(), *part.buffers())
    }
    return sum(tensors.values())


def shortage(error: BaseException) -> str:
    """Which memory ran out in a load, and what helps; empty if another fault caused the error.

    Libraries raise errors of their own when an allocation fails, so every cause is considered.
    """
    import torch

    from predictor.engine.faults import is_out_of_memory

    cause: BaseException | None = error
    while cause is not None and not is_out_of_memory(cause):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return ""
    if isinstance(cause, torch.OutOfMemoryError | torch.AcceleratorError):
        return (
            "the GPU has too little free memory; set a memory_preset for a smaller GPU, or keep "
            "fewer models in memory"
        )
    return (
        "the container has too little free memory; raise its limit, or keep fewer models in memory"
    )


def release_memory() -> None:
    """Return unreferenced memory to the device and to the operating system."""
    from predictor.engine.faults import release_cache

    # A pipeline contains reference cycles.
    gc.collect()
    release_cache()
    # glibc keeps freed memory; other C libraries do not have this function.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _number_of_weights(path: Path) -> int:
    """Count the numbers in a safetensors file from its header."""
    with safe_open(path, framework="numpy") as file:
        return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - not a dict


def _main_memory() -> int:
    """Return the container's memory limit in bytes, or the machine's memory if that is smaller."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CONTAINER_LIMITS:
        # Without a limit, v2 says "max"; the file of the other version does not exist.
        with contextlib.suppress(OSError, ValueError):
            sizes.append(int(path.read_text()))
    return min(sizes)
