"""Copies weights that safetensors maps from a file into memory of the process.

On a CPU, diffusers keeps the mapping if the number type needs no conversion. A file that shrinks or
a volume that fails would then end the process with SIGBUS at the next picture.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch


def copy_mapped_weights(parts: Iterable[object]) -> None:
    """Copy each parameter and buffer on the CPU, one at a time; ignore parts without weights."""
    for part in parts:
        if isinstance(part, torch.nn.Module):
            for tensor in itertools.chain(part.parameters(), part.buffers()):
                if tensor.device.type == "cpu":
                    tensor.data = tensor.data.clone()
