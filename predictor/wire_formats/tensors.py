"""Tensors of the Open Inference Protocol, with its binary data extension, to values and back.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from predictor.errors import InvalidRequestError
from predictor.protocol.json_body import MAX_VALUES
from predictor.requests.fields import FIELDS

NUMBERS = {
    **{
        f"{sign}INT{bits}": f"<{sign.lower()[:1] or 'i'}{bits // 8}"
        for sign in ("", "U")
        for bits in (8, 16, 32, 64)
    },
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
}
PICTURES = {field.name for field in FIELDS if field.has_picture}
_LENGTH = struct.Struct("<I")


def read_inputs(inputs: Any, binary: bytes) -> dict[str, list[Any]]:
    """The elements of each input, by name; ``binary`` is what follows the JSON of a body.

    Elements of BYTES are text. A picture may also be the bytes of its file, which become base64.

    Raises:
        InvalidRequestError: names the input and the reason.
    """
    if not isinstance(inputs, list) or not inputs:
        raise InvalidRequestError("inputs", "must be a list of tensors")
    found: dict[str, list[Any]] = {}
    rest = memoryview(binary)
    for index, tensor in enumerate(inputs):
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise InvalidRequestError(f"inputs[{index}].name", "must be a string")
        name = tensor["name"]
        if name in found:
            raise InvalidRequestError(name, "is given twice")
        size = _binary_size(name, tensor)
        if size is None:
            found[name] = _from_json(name, tensor)
        else:
            if size > len(rest):
                raise InvalidRequestError(name, f"binary_data_size is {size}, but less follows")
            found[name] = _from_binary(name, tensor, rest[:size])
            rest = rest[size:]
    if rest:
        raise InvalidRequestError("", f"{len(rest)} bytes follow the last binary tensor")
    return found


def _binary_size(name: str, tensor: dict[str, Any]) -> int | None:
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        return None
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise InvalidRequestError(name, "binary_data_size must be a number of bytes")
    return size


def _count(name: str, tensor: dict[str, Any]) -> int:
    """The number of elements."""
    shape = tensor.get("shape")
    is_valid = isinstance(shape, list) and all(
        isinstance(side, int) and 0 < side <= MAX_VALUES for side in shape
    )
    if not is_valid or (count := math.prod(shape or ())) > MAX_VALUES:
        raise InvalidRequestError(name, f"shape must be [n], with n from 1 to {MAX_VALUES}")
    return count


def _from_json(name: str, tensor: dict[str, Any]) -> list[Any]:
    if "data" not in tensor:
        raise InvalidRequestError(name, "has no data")
    elements = list(_flat(tensor["data"]))
    if len(elements) != (count := _count(name, tensor)):
        raise InvalidRequestError(name, f"shape has {count} elements, and data {len(elements)}")
    is_text = tensor.get("datatype") == "BYTES"
    if not is_text and tensor.get("datatype") not in NUMBERS:
        raise _unknown(name)
    for element in elements:
        if isinstance(element, bool | dict) or isinstance(element, str) != is_text:
            raise InvalidRequestError(name, "data does not match the datatype")
    return elements


def _flat(data: Any) -> Iterator[Any]:
    """The elements of nested lists, in row-major order."""
    if isinstance(data, list):
        for one in data:
            yield from _flat(one)
    else:
        yield data


def _from_binary(name: str, tensor: dict[str, Any], content: memoryview) -> list[Any]:
    count, datatype = _count(name, tensor), tensor.get("datatype")
    if datatype == "BYTES":
        elements: list[Any] = [_text(name, one) for one in _elements(name, content)]
    elif datatype in NUMBERS:
        dtype = np.dtype(NUMBERS[datatype])
        if len(content) % dtype.itemsize:
            raise InvalidRequestError(name, f"binary_data_size does not fit {datatype}")
        numbers = np.frombuffer(content, dtype)
        if not np.isfinite(numbers).all():
            raise InvalidRequestError(name, "has numbers that are not finite")
        elements = numbers.tolist()
    else:
        raise _unknown(name)
    if len(elements) != count:
        raise InvalidRequestError(
            name, f"shape has {count} elements, and the binary data {len(elements)}"
        )
    return elements


def _elements(name: str, content: memoryview) -> Iterator[bytes]:
    """Each element of BYTES follows its length in four bytes, little-endian."""
    for _ in range(MAX_VALUES):
        if not content:
            return
        end = _LENGTH.size + (_LENGTH.unpack_from(content)[0] if len(content) >= 4 else 0)
        if len(content) < max(end, _LENGTH.size):
            raise InvalidRequestError(name, "the binary data is cut off")
        yield bytes(content[_LENGTH.size : end])
        content = content[end:]
    if content:
        raise InvalidRequestError(name, f"has more than {MAX_VALUES} elements")


def _text(name: str, element: bytes) -> str:
    """An element as text; the file of a picture as base64, which has no NUL, unlike any file."""
    try:
        if name not in PICTURES or b"\0" not in element:
            return element.decode()
    except UnicodeDecodeError:
        if name not in PICTURES:
            raise InvalidRequestError(name, "is not valid UTF-8") from None
    return base64.b64encode(element).decode()


def _unknown(name: str) -> InvalidRequestError:
    return InvalidRequestError(name, f"datatype must be BYTES or one of {', '.join(NUMBERS)}")


def as_element(content: bytes) -> bytes:
    """One element of BYTES in binary form."""
    return _LENGTH.pack(len(content)) + content
