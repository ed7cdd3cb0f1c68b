"""Weights as far as they can be judged without loading them: headers, and the shards' index.

The format: eight bytes of length, little endian, a JSON header of that length, then the tensors
without holes (https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from downloader.errors import UnsuitableModelError

# The largest that are known have some megabytes; safetensors itself allows 100.
_LARGEST_HEADER_BYTES = 32 * 1024 * 1024
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
_INDEX = re.compile(r".*\.safetensors\.index(?:\.\w+)?\.json")


class BadWeightsError(UnsuitableModelError):
    """A file is no safetensors file, or an index names what is not there."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


@dataclass(frozen=True)
class _Tensor:
    """An entry of a header: the type, the shape, and the bytes' begin and end."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def has_right_size(self) -> bool:
        """A type that is not known may have any."""
        bits = _BITS.get(self.dtype)
        return bits is None or prod(self.shape) * bits == (self.end - self.begin) * 8


def check_weights(folder: Path, paths: Iterable[str]) -> None:
    """Read the header of each safetensors file, and hold each index to the headers.

    Raises:
        BadWeightsError: names the file and the reason.
    """
    listed = sorted(paths)
    tensors = {
        path: _tensor_names(folder, path) for path in listed if path.endswith(".safetensors")
    }
    for path in filter(_INDEX.fullmatch, listed):
        _check_index(folder, path, tensors)


def _tensor_names(folder: Path, path: str) -> set[str]:
    with (folder / path).open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, _LARGEST_HEADER_BYTES):
            raise BadWeightsError(path, "it is no safetensors file: its header has no length")
        header = _json_object(path, stream.read(length))
    header.pop("__metadata__", None)
    tensors = {name: _tensor(path, name, entry) for name, entry in header.items()}
    _check_offsets(path, tensors, size - 8 - length)
    return set(tensors)


def _tensor(path: str, name: str, entry: Any) -> _Tensor:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
            if all(isinstance(side, int) and side >= 0 for side in shape):
                return _Tensor(dtype, tuple(shape), begin, end)
    raise BadWeightsError(path, f"the header's entry {name[:100]!r} is no tensor")


def _check_offsets(path: str, tensors: Mapping[str, _Tensor], size: int) -> None:
    """Each tensor begins where the one before ends, and the last ends with the file."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != end or tensor.end < tensor.begin or not tensor.has_right_size:
            raise BadWeightsError(path, f"the tensor {name[:100]!r} has wrong offsets")
        end = tensor.end
    if end != size:
        raise BadWeightsError(path, f"it has {size:,} bytes of tensors, its header lists {end:,}")


def _check_index(folder: Path, path: str, tensors: Mapping[str, set[str]]) -> None:
    index = _json_object(path, (folder / path).read_bytes())
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadWeightsError(path, "it has no weight_map")
    parent = path.rpartition("/")[0]
    for name, shard in weight_map.items():
        where = f"{parent}/{shard}".lstrip("/")
        if name not in tensors.get(where, ()):
            raise BadWeightsError(path, f"the tensor {name[:100]!r} is not in {shard}")


def _json_object(path: str, text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise BadWeightsError(path, "its JSON cannot be read") from None
    if not isinstance(document, dict):
        raise BadWeightsError(path, "its JSON is no object")
    return document
