"""Copies weights that safetensors maps from a file into memory of the process.

On a CPU, diffusers keeps the mapping if the number type needs no conversion. A file that shrinks or
a volume that fails would then end the process with SIGBUS at the next picture.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path

import torch

_MAPPINGS = Path("/proc/self/maps")


def copy_mapped_weights(parts: Iterable[object]) -> None:
    """Copy each parameter and buffer that is mapped from a file, one at a time.

    Weights that were converted to another number type have been copied already. Parts without
    weights are ignored.
    """
    starts, ends = _mapped_files()
    for part in parts:
        if isinstance(part, torch.nn.Module):
            for tensor in itertools.chain(part.parameters(), part.buffers()):
                index = bisect_right(starts, tensor.data_ptr()) - 1
                if tensor.device.type == "cpu" and index >= 0 and tensor.data_ptr() < ends[index]:
                    tensor.data = tensor.data.clone()


def _mapped_files() -> tuple[list[int], list[int]]:
    """Return the addresses at which mappings of files begin and end (``proc_pid_maps(5)``)."""
    starts, ends = [], []
    for line in _MAPPINGS.read_text().splitlines():
        addresses, _, _, _, inode, *_ = line.split(maxsplit=5)
        if inode != "0":
            start, _, end = addresses.partition("-")
            starts.append(int(start, 16))
            ends.append(int(end, 16))
    return starts, ends
