"""``POST /v2/models/{name}/infer`` of the Open Inference Protocol: a row is a prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import orjson

from predictor.errors import InvalidRequestError, RefusedBySafetyError
from predictor.protocol import Call, EncodedResponse, decode_call, parse
from predictor.protocol.accept import JSON
from predictor.protocol.body import EXAMPLE_PROMPT
from predictor.protocol.decode import ParsedBody
from predictor.protocol.encode import (
    RESPONSE_HEADERS,
    PredictEvents,
    ResultEncoder,
    refusal_of,
    write_base64,
)
from predictor.protocol.json_body import MAX_VALUES, read_json
from predictor.protocol.json_schema import BINARY
from predictor.requests import CallLimits, GenerationResult, Limits, PictureSource
from predictor.wire_formats.form_fields import typed
from predictor.wire_formats.tensor_schema import RESPONSE, request_schema, tensor
from predictor.wire_formats.tensors import as_element, read_inputs
from predictor.wire_formats.wire_format import Answer, BodySchema, Message, WireFormat

JSON_LENGTH = "inference-header-content-length"
_BINARY = "application/octet-stream"
_OUTPUTS = ("image", "seed")
# Triton's parameters that have no meaning here, and its timeout, which is in microseconds.
_IGNORED = {"priority", "sequence_id", "sequence_start", "sequence_end"}
_MICROSECONDS = 1_000_000
_ROW = re.compile(r"instances\[([0-9]+)\]\.(.+)")


class TensorInference(WireFormat):
    """Inputs as ``GET /v2/models/{name}`` declares them; the other fields as parameters."""

    name = "tensors"
    paths = ("/v2/models/{model_name}/infer",)
    summary = "Make pictures, over the Open Inference Protocol v2"
    description = "A row of the inputs is a prompt. Also takes and returns binary tensors."
    request_headers: ClassVar[Mapping[str, str]] = {
        JSON_LENGTH: "The length of the JSON, if binary tensors follow it."
    }

    def document(self, content: Any, headers: Mapping[str, str]) -> dict[str, Any]:
        """The rows as KServe's instances, and the requested outputs under ``tensors``."""
        document, binary = _split(content, headers.get(JSON_LENGTH))
        parameters = _object(document, "parameters")
        if not isinstance(document.get("id"), str | None):
            raise InvalidRequestError("id", "must be a string")
        columns = read_inputs(document.get("inputs"), binary)
        is_binary = bool(parameters.pop("binary_data_output", False))
        tensors = {
            "id": document.get("id"),
            "outputs": _requested(document.get("outputs"), is_binary=is_binary),
        }
        if isinstance(parameters.get("timeout"), int | float):
            parameters["timeout"] /= _MICROSECONDS
        shared = {name: one for name, one in parameters.items() if name not in _IGNORED}
        return {
            "instances": _rows(columns),
            "parameters": typed(shared, {}),
            "tensors": tensors,
        }

    def parse(self, document: Any, message: Message, limits: CallLimits) -> ParsedBody:
        """See ``WireFormat.parse``."""
        # A reader process sends JSON.
        body = read_json(document) if isinstance(document, bytes) else document
        tensors = body["tensors"]
        instances = {name: value for name, value in body.items() if name != "tensors"}
        form = TensorForm(tensors["id"], tensors["outputs"])
        try:
            return parse(instances, None, limits)._replace(form=form)
        except InvalidRequestError as error:
            raise _of_tensor(error, len(body["instances"])) from None

    def decode(self, body: ParsedBody, limits: Limits, images: PictureSource | None = None) -> Call:
        """See ``WireFormat.decode``."""
        try:
            return decode_call(body, limits, images)
        except InvalidRequestError as error:
            raise _of_tensor(error, len(body.instances)) from None

    def body_schema(self, definitions_at: str) -> BodySchema:
        """Tensors and parameters."""
        return request_schema(definitions_at)

    def answers(self) -> tuple[Answer, ...]:
        """JSON, or JSON that binary tensors follow."""
        content = {JSON: RESPONSE, _BINARY: BINARY}
        return (Answer("The tensors.", content, (*RESPONSE_HEADERS, JSON_LENGTH)),)

    def examples(self) -> dict[str, dict[str, Any]]:
        """A picture as base64."""
        prompt = tensor("prompt", "BYTES", [EXAMPLE_PROMPT])
        return {"a picture": {"inputs": [prompt, tensor("seed", "INT64", [7])]}}


def _split(content: bytes, json_length: str | None) -> tuple[dict[str, Any], bytes]:
    """The JSON of a body, and the binary data after it."""
    length = len(content) if json_length is None else _length(json_length)
    if length > len(content):
        raise InvalidRequestError("", f"{JSON_LENGTH} exceeds the length of the body")
    document = read_json(content[:length])
    if not isinstance(document, dict):
        raise InvalidRequestError("", "the body must be a JSON object with `inputs`")
    return document, content[length:]


def _length(text: str) -> int:
    # The number of digits that a body can have.
    if not re.fullmatch("[0-9]{1,12}", text):
        raise InvalidRequestError("", f"{JSON_LENGTH} must be a number of bytes")
    return int(text)


def _object(document: dict[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidRequestError(name, "must be a JSON object")
    return dict(found)


def _requested(outputs: Any, *, is_binary: bool) -> dict[str, bool]:
    """The outputs of the response, each with whether it is binary."""
    if not outputs:
        return dict.fromkeys(_OUTPUTS, is_binary)
    if not isinstance(outputs, list) or not all(isinstance(one, dict) for one in outputs):
        raise InvalidRequestError("outputs", "must be a list of objects")
    requested = {}
    for index, output in enumerate(outputs):
        if (name := output.get("name")) not in _OUTPUTS:
            raise InvalidRequestError(
                f"outputs[{index}].name", f"must be one of {', '.join(_OUTPUTS)}"
            )
        parameters = _object(output, "parameters")
        requested[name] = bool(parameters.get("binary_data", is_binary))
    return requested


def _rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """One object for each row; an input with one element holds for all rows."""
    count = max(map(len, columns.values()))
    if count * len(columns) > MAX_VALUES:
        raise InvalidRequestError("inputs", f"{count} rows have more than {MAX_VALUES} values")
    for name, elements in columns.items():
        if len(elements) not in (1, count):
            raise InvalidRequestError(
                name, f"has {len(elements)} elements; the others have {count}: send 1 or {count}"
            )
    return [
        {name: elements[min(row, len(elements) - 1)] for name, elements in columns.items()}
        for row in range(count)
    ]


def _of_tensor(error: InvalidRequestError, rows: int) -> InvalidRequestError:
    """The same error with the element of an input in place of the field of an instance."""
    found = _ROW.fullmatch(error.field)
    if found is None:
        return error
    row, name = found.groups()
    return InvalidRequestError(name if rows == 1 else f"{name}[{row}]", error.reason)


@dataclass(frozen=True)
class TensorForm(PredictEvents):
    """The response: the identifier of the request, and its outputs with whether each is binary."""

    request_id: str | None
    outputs: dict[str, bool]

    def encoder(
        self, call: Call, results: Sequence[GenerationResult], **origin: Any
    ) -> TensorEncoder:
        """See ``ResponseForm``."""
        return TensorEncoder(self, call, results, **origin)


class TensorEncoder(ResultEncoder):
    """Encodes the pictures as elements of ``image``; a blocked one is empty."""

    def __init__(
        self, form: TensorForm, call: Call, results: Sequence[GenerationResult], **origin: Any
    ) -> None:
        super().__init__(call, results, **origin)
        self._form = form
        self._is_binary = form.outputs.get("image", False)
        self._has_picture = False

    def add(self, index: int) -> None:
        """Encode the next picture."""
        file = self.file(index) or b""
        self._has_picture = self._has_picture or bool(file)
        if "image" not in self._form.outputs:
            return
        if self._is_binary:
            self.body.write(as_element(file))
            return
        self.body.write(b',"' if index else b'"')
        write_base64(self.body, file)
        self.body.write(b'"')

    def response(self) -> EncodedResponse:
        """The response, once all pictures are added.

        Raises:
            RefusedBySafetyError: all pictures are blocked.
        """
        if not self._has_picture:
            raise RefusedBySafetyError(refusal_of(self.results[0]))
        seeds = [result.request.seed for result in self.results]
        binary, tensors = b"", []
        for name, is_binary in self._form.outputs.items():
            content = self.body.getvalue() if name == "image" else _seed_data(seeds, is_binary)
            if is_binary:
                binary += content
                rest = b'"parameters":{"binary_data_size":%d}}' % len(content)
            else:
                rest = b'"data":[' + content + b"]}"
            tensors.append(self._tensor(name) + rest)
        document = self._start() + b",".join(tensors) + b"]}"
        if not binary:
            return EncodedResponse(document, self.headers | {"content-type": JSON})
        headers = self.headers | {
            "content-type": _BINARY,
            JSON_LENGTH: str(len(document)),
        }
        return EncodedResponse(document + binary, headers)

    def _start(self) -> bytes:
        fields = {
            "model_name": self.headers["x-model-name"],
            "model_version": self.headers["x-model-revision"],
        }
        if self._form.request_id is not None:
            fields["id"] = self._form.request_id
        return orjson.dumps(fields)[:-1] + b',"outputs":['

    def _tensor(self, name: str) -> bytes:
        datatype = "BYTES" if name == "image" else "INT64"
        tensor = {"name": name, "datatype": datatype, "shape": [len(self.results)]}
        return orjson.dumps(tensor)[:-1] + b","


def _seed_data(seeds: Sequence[int], is_binary: bool) -> bytes:
    return np.array(seeds, "<i8").tobytes() if is_binary else orjson.dumps(seeds)[1:-1]
