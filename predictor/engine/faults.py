"""Which errors mean that memory ran out, and which that the device is lost."""

from __future__ import annotations

import logging

import torch

logger = logging.getLogger(__name__)

# torch has no error class of its own for CPU memory (c10/core/impl/alloc_cpu.cpp).
_CPU_ALLOCATOR = "DefaultCPUAllocator"
# The message of cudaErrorStreamCaptureUnsupported: while any thread captures a graph, such as for a
# model that loads, no thread can wait for the whole device.
_CAPTURING = "stream is capturing"


class DeviceLostError(Exception):
    """The GPU fails every call until the process restarts."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the work did not fit into the memory of the device or of the container."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    if isinstance(error, torch.AcceleratorError):
        # From allocations outside torch's cache, such as cuBLAS workspaces.
        return "out of memory" in text
    return isinstance(error, RuntimeError) and _CPU_ALLOCATOR in text


def device_fault() -> str:
    """Why the GPU fails every call, in the driver's words; empty if it works.

    After a fatal error, such as a device-side assert or an illegal address, the CUDA context stays
    broken: each later call returns the same error. Other CUDA errors do not fail this call.
    https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return ""
    try:
        torch.cuda.synchronize()
    except Exception as error:
        fault = str(error).partition("\n")[0]
        return "" if _CAPTURING in fault else fault
    return ""


def raise_if_device_is_lost(error: BaseException) -> None:
    """Raise if no later work can succeed either.

    Raises:
        DeviceLostError: the GPU fails every call; ``error`` is the cause.
    """
    if fault := device_fault():
        raise DeviceLostError(fault) from error


def release_cache() -> None:
    """Return torch's unused GPU memory to the device; log a failure and continue."""
    try:
        torch.cuda.empty_cache()
    except Exception:
        logger.exception("the GPU memory that torch caches could not be released")
