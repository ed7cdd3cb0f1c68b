"""The messages of gRPC ``ModelInfer`` as those of ``POST /v2/models/{name}/infer``, and back.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_grpc.md
"""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import orjson
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from predictor.errors import InvalidRequestError
from predictor.protocol import EncodedResponse
from predictor.protocol.json_body import MAX_VALUES
from predictor.wire_formats.tensor_inference import JSON_LENGTH
from predictor.wire_formats.tensors import NUMBERS, element_length, split_elements

_CONTENTS = {
    "BYTES": "bytes_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
_MICROSECONDS = 1_000_000
# The largest ``timeout`` of a request, in seconds.
_LONGEST_TIMEOUT = 86_400
# The length of the longest varint, in bytes.
_VARINT_BYTES = 10


class Inference(NamedTuple):
    """A request in the form of ``/infer``: JSON, followed by the data of its tensors.

    ``is_raw``: the tensors were in ``raw_input_contents``, so those of the response are raw too.
    """

    model_name: str
    content: bytes
    headers: dict[str, str]
    is_raw: bool


def read_request(message: bytes, seconds: float | None) -> Inference:
    """A ``ModelInferRequest``; ``seconds`` is the time until its deadline.

    Raises:
        InvalidRequestError: names the field and the reason.
        NotImplementedError: it names a version of the model.
    """
    request = _parsed(message)
    if not request.model_name:
        raise InvalidRequestError("model_name", "is missing")
    if request.model_version:
        raise NotImplementedError(
            "model_version: the server has one version of each model; leave it empty"
        )
    contents = _contents(request)
    sizes = [sum(map(len, pieces)) for pieces in contents]
    parameters = {name: _parameter(name, one) for name, one in request.parameters.items()}
    document = {
        "id": request.id or None,
        "parameters": _within_deadline(parameters, seconds) | {"binary_data_output": True},
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
                "parameters": {"binary_data_size": size},
            }
            for tensor, size in zip(request.inputs, sizes, strict=True)
        ],
        "outputs": [{"name": output.name} for output in request.outputs],
    }
    start = orjson.dumps(document)
    return Inference(
        request.model_name,
        b"".join([start, *chain.from_iterable(contents)]),
        {JSON_LENGTH: str(len(start))},
        bool(request.raw_input_contents),
    )


def write_response(response: EncodedResponse, *, is_raw: bool) -> bytes:
    """The response of ``/infer``, all of whose tensors are binary, as a ``ModelInferResponse``.

    The pictures are put between the other fields, because protobuf would copy them several times
    and hold the GIL for a tenth of a second.
    """
    length = int(response.headers[JSON_LENGTH])
    document = orjson.loads(response.body[:length])
    rest = memoryview(response.body)[length:]
    start = pb.ModelInferResponse(
        model_name=document["model_name"],
        model_version=document["model_version"],
        id=document.get("id", ""),
    )
    pieces, raw = [start.SerializeToString()], []
    for tensor in document["outputs"]:
        size = tensor["parameters"]["binary_data_size"]
        content, rest = rest[:size], rest[size:]
        contents = [] if is_raw else _typed_contents(tensor, content)
        pieces += _field(pb.ModelInferResponse, "outputs", [_output(tensor), *contents])
        if is_raw:
            raw += _field(pb.ModelInferResponse, "raw_output_contents", [bytes(content)])
    return b"".join(pieces + raw)


def _output(tensor: dict[str, Any]) -> bytes:
    output = pb.ModelInferResponse.InferOutputTensor(
        name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"]
    )
    serialized: bytes = output.SerializeToString()
    return serialized


def _typed_contents(tensor: dict[str, Any], content: memoryview) -> list[bytes]:
    if tensor["datatype"] == "BYTES":
        elements = split_elements(tensor["name"], content)
        fields = (_field(pb.InferTensorContents, "bytes_contents", [one]) for one in elements)
        inner = [*chain.from_iterable(fields)]
    else:
        numbers = np.frombuffer(content, "<i8").tolist()
        inner = [pb.InferTensorContents(int64_contents=numbers).SerializeToString()]
    return _field(pb.ModelInferResponse.InferOutputTensor, "contents", inner)


def _field(message: Any, name: str, content: list[bytes]) -> list[bytes]:
    """A field of a message with a length, in pieces."""
    number = message.DESCRIPTOR.fields_by_name[name].number
    return [_as_varint(number << 3 | 2), _as_varint(sum(map(len, content))), *content]


def _as_varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def _parsed(message: bytes) -> Any:
    _check_values(message)
    try:
        return pb.ModelInferRequest.FromString(message)
    except DecodeError:
        raise _broken() from None


def _broken() -> InvalidRequestError:
    return InvalidRequestError("", "the message is not a valid ModelInferRequest")


def _contents(request: Any) -> list[list[bytes]]:
    """The data of each input in binary form, in pieces."""
    raw = request.raw_input_contents
    if not raw:
        return [_packed(tensor) for tensor in request.inputs]
    if len(raw) != len(request.inputs):
        raise InvalidRequestError(
            "raw_input_contents",
            f"has {len(raw)} elements for {len(request.inputs)} inputs: send one for each input",
        )
    for tensor in request.inputs:
        if tensor.HasField("contents"):
            raise InvalidRequestError(
                tensor.name, "has contents, but the request has raw_input_contents"
            )
    return [[content] for content in raw]


def _packed(tensor: Any) -> list[bytes]:
    """The typed contents of an input; empty for an unknown datatype, which is refused later."""
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        return []
    values = getattr(tensor.contents, field)
    if not values:
        raise InvalidRequestError(
            tensor.name, f"has no data: {tensor.datatype} requires {field} or raw_input_contents"
        )
    if tensor.datatype == "BYTES":
        return [piece for value in values for piece in (element_length(value), value)]
    try:
        return [np.array(list(values), NUMBERS[tensor.datatype]).tobytes()]
    except OverflowError:
        raise InvalidRequestError(
            tensor.name, f"has a number that does not fit {tensor.datatype}"
        ) from None


def _parameter(name: str, parameter: Any) -> bool | int | str:
    choice = parameter.WhichOneof("parameter_choice")
    if choice is None:
        # Triton has other types, which KServe's messages lack.
        raise InvalidRequestError(name, "must be a boolean, an integer or text, such as `2.5`")
    value: bool | int | str = getattr(parameter, choice)
    return value


def _within_deadline(parameters: dict[str, Any], seconds: float | None) -> dict[str, Any]:
    """The parameters with the deadline as the ``timeout``, unless that is shorter."""
    if seconds is None or seconds > _LONGEST_TIMEOUT:
        return parameters
    deadline, timeout = max(1, int(seconds * _MICROSECONDS)), parameters.get("timeout")
    if timeout is None or (isinstance(timeout, int) and timeout > deadline):
        return parameters | {"timeout": deadline}
    return parameters


def _check_values(message: bytes) -> None:
    """Refuse a message of more than ``MAX_VALUES`` values.

    The parser would hold the GIL while it creates an object for each of millions of values.
    https://protobuf.dev/programming-guides/encoding/
    """
    left = MAX_VALUES
    parts = [(memoryview(message), pb.ModelInferRequest.DESCRIPTOR)]
    while parts:
        content, kind = parts.pop()
        at = 0
        while at < len(content):
            key, at = _varint(content, at)
            start, at = _value(content, at, key & 7)
            left -= 1
            field = kind.fields_by_number.get(key >> 3)
            if field is not None and key & 7 == 2:
                if field.message_type is not None:
                    parts.append((content[start:at], field.message_type))
                elif _is_packed(field):
                    left -= (at - start) // _VARINT_BYTES
            if left < 0:
                raise InvalidRequestError("", f"the message has more than {MAX_VALUES} values")


def _is_packed(field: FieldDescriptor) -> bool:
    return field.type not in (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING)


def _value(content: memoryview, at: int, wire_type: int) -> tuple[int, int]:
    """Where a value starts and ends."""
    start = at
    if wire_type == 0:
        _, end = _varint(content, at)
    elif wire_type == 2:
        size, start = _varint(content, at)
        end = start + size
    elif wire_type in (1, 5):
        end = start + (8 if wire_type == 1 else 4)
    else:
        # Groups, which the protocol does not use.
        raise _broken()
    if end > len(content):
        raise _broken()
    return start, end


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = 0
    for index, byte in enumerate(content[at : at + _VARINT_BYTES]):
        number |= (byte & 127) << (7 * index)
        if byte < 128:
            return number, at + index + 1
    raise _broken()
