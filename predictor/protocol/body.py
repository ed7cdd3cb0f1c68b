"""The bodies of KServe's v1 ``:predict``: one prompt, or several instances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field, create_model, model_validator
from pydantic.json_schema import models_json_schema

from predictor.protocol.json_schema import object_schema, properties_of
from predictor.requests.field_types import STRICT
from predictor.requests.fields import FIELDS
from predictor.requests.validation import (
    Document,
    Parameters,
    check_given_once,
    given,
    spellings,
)

EXAMPLE_PROMPT = "a red circle on a blue background"
# A grey square.
EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR42mNs"
    "YIAAJgaKGAAmCACQtTEKkQAAAABJRU5ErkJggg=="
)
_PROMPT = next(field for field in FIELDS if field.name == "prompt")
_STRING = {"type": "string"}
PREDICTION = object_schema(
    {
        "image": {
            "anyOf": [
                object_schema({"format": _STRING, "b64": _STRING}, ["format", "b64"]),
                {"type": "null", "description": "A safety layer blocks the picture."},
            ],
        },
        **properties_of("string", "prompt", "negative_prompt", "scheduler"),
        **properties_of("integer", "seed", "width", "height", "num_inference_steps"),
        **properties_of("number", "guidance_scale"),
        "warnings": {"type": "array", "items": _STRING},
        "safety": {
            "type": "array",
            "items": object_schema({"layer": _STRING, "action": _STRING}, ["layer", "action"]),
        },
    },
    ["image", "prompt", "seed"],
)
PREDICTIONS = object_schema(
    {"predictions": {"type": "array", "items": PREDICTION}}, ["predictions"]
)
"""The schema of a response with predictions."""


class _OnceInBoth(Document):
    """Refuses a field that is both at the top and under ``parameters``."""

    @model_validator(mode="before")
    @classmethod
    def _given_once(cls, document: Any) -> Any:
        if isinstance(document, dict):
            nested = spellings(document.get("parameters"), "parameters.")
            check_given_once([*spellings(document), *nested])
        return document


Instance: type[Document] = create_model(
    "Instance",
    __base__=(_OnceInBoth, Parameters),
    __doc__="One prompt with its parameters, at the top, under `parameters`, or some of each.",
    prompt=(str, Field(description=_PROMPT.help)),
    parameters=(Parameters, Parameters()),
)


class InstancesBody(BaseModel):
    """Several instances, and the parameters that they share."""

    model_config = STRICT

    instances: list[Instance]  # type: ignore[valid-type]  # built at run time
    parameters: Parameters = Parameters()  # type: ignore[valid-type]


def merged(instance: Any) -> dict[str, Any]:
    """All parameters of an ``Instance``, wherever the caller put them."""
    return given(instance) | given(instance.parameters)


def names_as_written(document: Mapping[str, Any]) -> dict[str, str]:
    """How the caller wrote the parameters of a valid object, by field name."""
    return dict(spellings(document)) | dict(spellings(document.get("parameters")))


def body_schema(definitions_at: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON schema of a body, and the definitions that it refers to.

    ``definitions_at`` is the place of the definitions, such as ``#/components/schemas/``.
    """
    bodies = (Instance, InstancesBody)
    schemas, definitions = models_json_schema(
        [(body, "validation") for body in bodies], ref_template=definitions_at + "{model}"
    )
    return {"anyOf": [schemas[body, "validation"] for body in bodies]}, definitions["$defs"]
