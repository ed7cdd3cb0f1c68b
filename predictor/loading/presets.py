"""The presets for the size of a GPU, and which of them a model needs on a given one."""

from __future__ import annotations

from predictor.loading.footprint import Footprint
from predictor.loading.tuning import Savings

# From the one that gives up nothing to the one that gives up most.
PRESETS: dict[str, Savings] = {
    "80gb": Savings(),
    "40gb": Savings(),
    "24gb": Savings(vae_slicing=True),
    "16gb": Savings(vae_slicing=True, vae_tiling=True),
    "12gb": Savings(vae_slicing=True, vae_tiling=True, offload="model"),
    "8gb": Savings(vae_slicing=True, vae_tiling=True, offload="sequential"),
}

# Of what is free: the allocator leaves gaps, and sizes differ from request to request.
_USABLE = 0.9


def least_restrictive(free_bytes: int, footprint: Footprint) -> str:
    """The first preset under which the model is expected to fit; the last where none is."""
    for name, savings in PRESETS.items():
        if footprint.peak(savings) <= _USABLE * free_bytes:
            return name
    return name


def savings_of(
    memory_preset: str, free_bytes: int | None, footprint: Footprint
) -> tuple[str, Savings]:
    """The preset that holds and what it gives up; ``free_bytes`` is None on a CPU.

    A CPU has nowhere to offload from, and its own memory is what ``auto`` would have to read.
    """
    if memory_preset == "auto":
        memory_preset = "none" if free_bytes is None else least_restrictive(free_bytes, footprint)
    savings = PRESETS.get(memory_preset, Savings())
    if free_bytes is None:
        savings = Savings(savings.vae_slicing, savings.vae_tiling)
    return memory_preset, savings
