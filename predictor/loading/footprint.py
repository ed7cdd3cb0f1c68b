"""How much GPU memory a pipeline is expected to take, and which preset that calls for."""

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
# What a step takes beside the weights, at a megapixel in half precision.
_STEP_BYTES = _GIB
# The step loop decodes up to four pictures in one call.
_PICTURES_DECODED = 4
# Maps of the second level's width at the picture's full size, alive at once in a decoder:
# `bench/memory.py` measures it.
_MAPS_ALIVE = 5
# Loaded beside the pipeline, into the same memory.
_BESIDE = tuple(
    f"{name}/" for name in (REFINER_FOLDER_NAME, CONTROLNETS_FOLDER_NAME, CLASSIFIER_FOLDER_NAME)
)

# From the one that gives up nothing to the one that gives up most.
PRESETS: dict[str, Savings] = {
    "80gb": Savings(),
    "24gb": Savings(vae_slicing=True),
    "16gb": Savings(vae_slicing=True, vae_tiling=True),
    "12gb": Savings(vae_slicing=True, vae_tiling=True, offload="model"),
    "8gb": Savings(vae_slicing=True, vae_tiling=True, offload="sequential"),
}

# Of what is free: the allocator leaves gaps, and sizes differ from request to request.
_USABLE = 0.9


@dataclass(frozen=True)
class Footprint:
    """Bytes: all weights, the largest part's, and those of decoding a picture.

    ``decode`` is for a picture of the model's own size, ``decode_largest`` for the largest that a
    request may ask for.
    """

    weights: int
    largest_part: int
    decode: int
    decode_largest: int

    def peak(self, savings: Savings) -> int:
        """The expected peak; a rough one, as the step loop halves a batch that does not fit."""
        decode = self.decode if savings.vae_tiling else self.decode_largest
        decode *= 1 if savings.vae_slicing else _PICTURES_DECODED
        if savings.offload == "model":
            return max(self.largest_part + _STEP_BYTES, decode)
        work = max(_STEP_BYTES, decode)
        return work if savings.offload == "sequential" else self.weights + work


def footprint_of(pipeline: Any, marker: Marker, pixels: int, max_pixels: int) -> Footprint:
    """The footprint of a pipeline in its final number type, wherever its weights are.

    ``pixels`` are those of a picture that it makes by default, ``max_pixels`` those of the largest.
    """
    parts = [_size(part) for part in pipeline.components.values() if _is_module(part)]
    beside = sum(
        entry.size
        for entry in marker.files
        if entry.path.startswith(_BESIDE) and entry.path.endswith(".safetensors")
    )
    per_pixel = _bytes_per_pixel(pipeline)
    largest = max(pixels, max_pixels)
    return Footprint(sum(parts) + beside, max(parts), pixels * per_pixel, largest * per_pixel)


def _bytes_per_pixel(pipeline: Any) -> int:
    vae = vae_of(pipeline)
    if vae is None:
        return 0
    widths = vae.config.get("block_out_channels") or (128, 256)
    return int(widths[:2][-1] * _item_bytes(pipeline, vae) * _MAPS_ALIVE)


def _item_bytes(pipeline: Any, vae: Any) -> int:
    """Those of a float32 where SDXL's pipelines cast the decoder up."""
    is_upcast = vae.dtype == torch.float16 and vae.config.get("force_upcast")
    return 4 if is_upcast and hasattr(pipeline, "upcast_vae") else int(vae.dtype.itemsize)


def _is_module(part: object) -> bool:
    return isinstance(part, torch.nn.Module)


def _size(part: torch.nn.Module) -> int:
    return sum(weight.nbytes for weight in part.parameters())


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
