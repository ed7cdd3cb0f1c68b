"""Strict checks of custom resources: an unknown field fails, where a cluster drops it silently.

Two sources define the fields of an InferenceService: KServe's CustomResourceDefinition, if present
next to the clone, and the models of KServe's SDK, which is always installed. ``schemas/`` holds the
Prometheus operator's definitions (0.80, Apache-2.0), closed in the same way, and the fields of
Gateway API's HTTPRoute (v1).
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kserve.models
import kubernetes.client
import yaml

SCHEMAS = Path(__file__).parent / "schemas"
PRIMITIVES: dict[str, Any] = {"str": str, "int": int, "bool": bool, "float": (int, float)}


def inference_service_schema(crd_file: Path) -> dict[str, Any]:
    """The v1beta1 schema of the CRD, closed: it rejects fields that it does not declare."""
    crd = yaml.load(crd_file.read_bytes(), Loader=yaml.CSafeLoader)
    (version,) = [item for item in crd["spec"]["versions"] if item["name"] == "v1beta1"]
    schema: dict[str, Any] = copy.deepcopy(version["schema"]["openAPIV3Schema"])
    _close(schema)
    # The API server validates the metadata, not the CRD.
    schema["properties"]["metadata"]["additionalProperties"] = True
    return schema


def crd_problems(schema: dict[str, Any], item: dict[str, Any]) -> list[str]:
    """The violations of the closed schema, each with its path."""
    errors = jsonschema.Draft202012Validator(schema).iter_errors(item)
    return [f"{error.json_path}: {error.message}" for error in errors]


def sdk_problems(item: dict[str, Any]) -> list[str]:
    """The fields of an InferenceService that KServe's SDK does not accept, each with its path."""
    return list(_walk(item, "V1beta1InferenceService", "$"))


def operator_problems(name: str, item: dict[str, Any]) -> list[str]:
    """The violations of ``schemas/<name>.json``, each with its path."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
    return crd_problems(schema, item)


def _close(schema: Any) -> None:
    if isinstance(schema, list):
        for entry in schema:
            _close(entry)
    if not isinstance(schema, dict):
        return
    is_open = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if isinstance(schema.get("properties"), dict) and not is_open:
        schema.setdefault("additionalProperties", False)
    for entry in schema.values():
        _close(entry)


def _walk(value: Any, type_name: str, path: str) -> Iterator[str]:
    container = re.fullmatch(r"(list|dict)[\[(](?:str, ?)?(.+)[\])]", type_name, re.IGNORECASE)
    if container:
        yield from _walk_container(value, container[1].lower(), container[2], path)
    elif type_name in PRIMITIVES:
        # In Python, True is also an integer.
        expected = PRIMITIVES[type_name]
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            yield f"{path}: {value!r} is not of type {type_name}"
    elif model := _model(type_name):
        yield from _walk_model(value, model, path)


def _walk_container(value: Any, kind: str, type_name: str, path: str) -> Iterator[str]:
    if not isinstance(value, {"list": list, "dict": dict}[kind]):
        yield f"{path}: {value!r} is not of type {kind}"
    elif kind == "list":
        for index, entry in enumerate(value):
            yield from _walk(entry, type_name, f"{path}[{index}]")
    # The SDK declares quantities as strings, but numbers are valid too.
    elif not path.endswith((".limits", ".requests")):
        for key, entry in value.items():
            yield from _walk(entry, type_name, f"{path}.{key}")


def _walk_model(value: Any, model: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: {value!r} is not an object"
        return
    attribute_of = {wire: attribute for attribute, wire in model.attribute_map.items()}
    for key, entry in value.items():
        if key not in attribute_of:
            yield f"{path}: unknown field {key!r}"
        else:
            yield from _walk(entry, model.openapi_types[attribute_of[key]], f"{path}.{key}")


def _model(type_name: str) -> Any:
    model = getattr(kserve.models, type_name, None) or getattr(kubernetes.client, type_name, None)
    # Anything else (quantities, times, free-form objects) has no fields to misspell.
    return model if hasattr(model, "openapi_types") else None
