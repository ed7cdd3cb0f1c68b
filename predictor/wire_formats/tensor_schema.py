"""The JSON schemas of the Open Inference Protocol's inference over REST.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from predictor.protocol.accept import JSON
from predictor.protocol.json_schema import Schema, object_schema
from predictor.requests.fields import FIELDS
from predictor.requests.validation import Parameters
from predictor.wire_formats.tensors import NUMBERS
from predictor.wire_formats.wire_format import BodySchema

_STRING: Schema = {"type": "string"}
_SHAPE: Schema = {"type": "array", "items": {"type": "integer", "minimum": 1}}
_DATA: Schema = {"type": "array", "description": "Missing for a binary tensor."}
_OBJECT: Schema = {"type": "object"}

RESPONSE = object_schema(
    {
        "model_name": _STRING,
        "model_version": _STRING,
        "id": _STRING,
        "outputs": {
            "type": "array",
            "items": object_schema(
                {
                    "name": {"enum": ["image", "seed"]},
                    "datatype": {"enum": ["BYTES", "INT64"]},
                    "shape": _SHAPE,
                    "data": _DATA,
                },
                ["name", "datatype", "shape"],
            ),
        },
    },
    ["model_name", "model_version", "outputs"],
)
"""The schema of a response without binary tensors."""


def request_schema(definitions_at: str) -> BodySchema:
    """The fields of the table as inputs and parameters."""
    parameters = Parameters.model_json_schema(ref_template=definitions_at + "{model}")
    definitions = parameters.pop("$defs", {})
    # As in Triton; with two types, ``FieldSchemas`` does not add the bounds in seconds.
    parameters["properties"]["timeout"] = {
        "type": ["number", "null"],
        "description": "In microseconds.",
    }
    parameters["additionalProperties"] = True
    scalars = [field.name for field in FIELDS if field.datatype]
    tensor_of = object_schema(
        {
            "name": {"enum": scalars},
            "datatype": {"enum": ["BYTES", *NUMBERS]},
            "shape": _SHAPE,
            "data": _DATA,
            "parameters": _OBJECT,
        },
        ["name", "datatype", "shape"],
    )
    output = object_schema({"name": {"enum": ["image", "seed"]}, "parameters": _OBJECT}, ["name"])
    properties: dict[str, Schema] = {
        "id": _STRING,
        "inputs": {"type": "array", "items": tensor_of, "minItems": 1},
        "outputs": {"type": "array", "items": output},
        "parameters": {"$ref": definitions_at + "TensorParameters"},
    }
    schema = object_schema(properties, ["inputs"])
    return BodySchema(JSON, schema, definitions | {"TensorParameters": parameters})


def tensor(name: str, datatype: str, data: Sequence[Any]) -> dict[str, Any]:
    """One input, as JSON."""
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": [*data]}
