"""The expected GPU memory of a pipeline, and the memory preset to choose for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from modelstore import Marker
from modelstore.layout import (
    CLASSIFIER_FOLDER_NAME,
    CONTROLNETS_FOLDER_NAME,
    REFINER_FOLDER_NAME,
)
from predictor.loading.apply import vae_of
from predictor.pipelines.tuning import Savings

_GIB = 2**30
# The memory of a step in addition to the weights, at a megapixel in half precision.
_STEP_BYTES = _GIB
# The step loop decodes up to four pictures in one call.
_PICTURES_DECODED = 4
# Full-size feature maps of the second level's width that a decoder holds at once, as measured by
# `bench/memory.py`.
_MAPS_ALIVE = 5
# Folders of further networks that load into the same memory.
_EXTRA_NETWORKS = tuple(
    f"{name}/" for name in (REFINER_FOLDER_NAME, CONTROLNETS_FOLDER_NAME, CLASSIFIER_FOLDER_NAME)
)

# From the fastest to the one that saves most memory.
PRESETS: dict[str, Savings] = {
    "80gb": Savings(),
    "24gb": Savings(vae_slicing=True),
    "16gb": Savings(vae_slicing=True, vae_tiling=True),
    "12gb": Savings(vae_slicing=True, vae_tiling=True, offload="model"),
    "8gb": Savings(vae_slicing=True, vae_tiling=True, offload="sequential"),
}

# Fraction of the free memory: the allocator fragments it, and sizes vary between requests.
_USABLE = 0.9


@dataclass(frozen=True)
class Footprint:
    """Memory in bytes of all weights, of the largest component, and of decoding a picture.

    ``decode`` is for a picture of the model's native size, ``decode_largest`` for the largest
    picture that a request may have.
    """

    weights: int
    largest_part: int
    decode: int
    decode_largest: int

    def peak(self, savings: Savings) -> int:
        """Estimate the peak in bytes; it may be rough, as the step loop halves large batches."""
        decode = self.decode if savings.vae_tiling else self.decode_largest
        decode *= 1 if savings.vae_slicing else _PICTURES_DECODED
        if savings.offload == "model":
            return max(self.largest_part + _STEP_BYTES, decode)
        work = max(_STEP_BYTES, decode)
        return work if savings.offload == "sequential" else self.weights + work


def footprint_of(pipeline: Any, marker: Marker, pixels: int, max_pixels: int) -> Footprint:
    """Return the footprint of a pipeline that has its final dtype, on any device.

    ``pixels`` is the size of a default picture, ``max_pixels`` the largest allowed size.
    """
    parts = [_size(part) for part in pipeline.components.values() if _is_module(part)]
    extra = sum(
        entry.size
        for entry in marker.files
        if entry.path.startswith(_EXTRA_NETWORKS) and entry.path.endswith(".safetensors")
    )
    per_pixel = _bytes_per_pixel(pipeline)
    largest = max(pixels, max_pixels)
    return Footprint(sum(parts) + extra, max(parts), pixels * per_pixel, largest * per_pixel)


def _bytes_per_pixel(pipeline: Any) -> int:
    vae = vae_of(pipeline)
    if vae is None:
        return 0
    widths = vae.config.get("block_out_channels") or (128, 256)
    return int(widths[:2][-1] * _item_bytes(pipeline, vae) * _MAPS_ALIVE)


def _item_bytes(pipeline: Any, vae: Any) -> int:
    """Return the bytes of a number in the decoder, which SDXL's pipelines upcast to float32."""
    is_upcast = vae.dtype == torch.float16 and vae.config.get("force_upcast")
    return 4 if is_upcast and hasattr(pipeline, "upcast_vae") else int(vae.dtype.itemsize)


def _is_module(part: object) -> bool:
    return isinstance(part, torch.nn.Module)


def _size(part: torch.nn.Module) -> int:
    return sum(weight.nbytes for weight in part.parameters())


def least_restrictive(free_bytes: int, footprint: Footprint) -> str:
    """Return the first preset with which the model is expected to fit, or else the last one."""
    for name, savings in PRESETS.items():
        if footprint.peak(savings) <= _USABLE * free_bytes:
            return name
    return name


def savings_of(
    memory_preset: str, free_bytes: int | None, footprint: Footprint
) -> tuple[str, Savings]:
    """Resolve the preset and its savings; ``free_bytes`` is None on a CPU.

    A CPU never offloads, and ``auto`` chooses no preset for it.
    """
    if memory_preset == "auto":
        memory_preset = "none" if free_bytes is None else least_restrictive(free_bytes, footprint)
    savings = PRESETS.get(memory_preset, Savings())
    if free_bytes is None:
        savings = Savings(savings.vae_slicing, savings.vae_tiling)
    return memory_preset, savings
