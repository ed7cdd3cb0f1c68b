"""Copies between the host and the device that the host does not wait for.

A copy to or from a GPU runs in the background only if the host's memory is pinned.
https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def host_memory(
    shape: Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Uninitialized memory of the host from which, and to which, that device copies fast."""
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=device.type == "cuda")


def upload(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy ``host_memory`` to the device, in the order of its stream; a CPU uses it as it is.

    The host may drop the memory at once, but must not write to it again.
    """
    return host if device.type == "cpu" else host.to(device, non_blocking=True)


def upload_numbers(
    numbers: torch.Tensor | Sequence[float],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Copy a few numbers to the device in that dtype; see ``upload``."""
    host = torch.as_tensor(numbers)
    return upload(host_memory(host.shape, device, dtype).copy_(host), device)


def download(tensor: torch.Tensor) -> torch.Tensor:
    """Start a copy to the host; it is complete once the current stream has reached this point."""
    if tensor.device.type == "cpu":
        return tensor
    host = host_memory(tensor.shape, tensor.device, tensor.dtype)
    return host.copy_(tensor, non_blocking=True)
