"""Checks of weights that need no loading: safetensors headers, and the index of shards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from downloader.errors import UnsuitableModelError

_INDEX = re.compile(r".*\.safetensors\.index(?:\.\w+)?\.json")
_LONGEST_REASON = 200


class BadWeightsError(UnsuitableModelError):
    """A file is not valid safetensors, or an index names a tensor that does not exist."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


def check_weights(folder: Path, paths: Iterable[str]) -> None:
    """Check the header of each safetensors file, and each index against the headers.

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
    _check_header(folder, path)
    with (folder / path).open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return set(header) - {"__metadata__"}


def _check_header(folder: Path, path: str) -> None:
    """Let the library check types, shapes and offsets; it maps the file and reads the header."""
    try:
        # It looks for NumPy once the header is valid; the image has none and loads no tensor.
        with suppress(ModuleNotFoundError), safe_open(folder / path, framework="np"):
            pass
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")[:_LONGEST_REASON]
        raise BadWeightsError(path, f"not a valid safetensors file: {reason}") from None


def _check_index(folder: Path, path: str, tensors: Mapping[str, set[str]]) -> None:
    weight_map = _index(folder, path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadWeightsError(path, "the index has no weight_map")
    parent = path.rpartition("/")[0]
    for name, shard in weight_map.items():
        where = f"{parent}/{shard}".lstrip("/")
        if name not in tensors.get(where, ()):
            raise BadWeightsError(path, f"the tensor {name[:100]!r} is not in {shard}")


def _index(folder: Path, path: str) -> dict[str, Any]:
    try:
        document = json.loads((folder / path).read_bytes())
    except (ValueError, RecursionError):
        raise BadWeightsError(path, "the index is not valid JSON") from None
    if not isinstance(document, dict):
        raise BadWeightsError(path, "the index is not a JSON object")
    return document
