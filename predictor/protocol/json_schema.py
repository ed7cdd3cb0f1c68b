"""JSON schemas for the OpenAPI document: of examples, and of fields with this server's bounds.

https://json-schema.org/draft/2020-12
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from predictor.requests import GenerationDefaults, Limits, ModelProfile
from predictor.requests.fields import CANONICAL, FIELDS, MIN_SIDE, Bounds, RequestField
from predictor.requests.limits import MAX_ADAPTER_SCALE, MAX_CONTROLNET_SCALE
from predictor.requests.sampler_names import EQUIVALENTS
from predictor.settings import Settings

Schema = dict[str, Any]

BINARY: Schema = {}
"""A file as it is, which JSON Schema cannot describe."""

_TYPES: Mapping[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
# A wire format whose field has another meaning than that of the table states its bounds itself.
_OWN_BOUNDS = {"enum", "minimum"}
_FIELDS = {field.name: field for field in FIELDS}
# Its bounds are those that hold for every model.
_ANY_MODEL = ModelProfile(
    revision="",
    defaults=GenerationDefaults(MIN_SIDE, MIN_SIDE, 1, 1.0, ""),
    size_multiple=1,
    schedulers=(),
    # More than any text encoder has.
    max_clip_skip=1000,
)


def schema_of(*examples: Any) -> Schema:
    """The schema of values like the ``examples``.

    The keys that all of them have are required. If one is null, any value is valid.
    """
    if not examples or None in examples:
        return {}
    if all(isinstance(one, Mapping) for one in examples):
        names = dict.fromkeys(name for one in examples for name in one)
        properties = {
            name: schema_of(*(one[name] for one in examples if name in one)) for name in names
        }
        return object_schema(properties, [n for n in names if all(n in one for one in examples)])
    if all(isinstance(one, list) for one in examples):
        return {"type": "array", "items": schema_of(*(entry for one in examples for entry in one))}
    kinds = dict.fromkeys(_TYPES[type(one)] for one in examples)
    return {"type": next(iter(kinds)) if len(kinds) == 1 else [*kinds]}


def object_schema(properties: Mapping[str, Schema], required: Iterable[str] = ()) -> Schema:
    """An object with at least the ``required`` ones of these properties."""
    return {"type": "object", "properties": dict(properties), "required": [*required]}


def properties_of(kind: str, *names: str) -> dict[str, Schema]:
    """Properties of one type."""
    return {name: {"type": kind} for name in names}


class FieldSchemas:
    """Adds the bounds of a server's settings to schemas that have the fields of the table.

    With the ``profile`` of a model also its defaults, schedulers and other choices.
    """

    def __init__(self, settings: Settings, profile: ModelProfile | None) -> None:
        self._limits = Limits(settings, profile or _ANY_MODEL)
        self._profile = profile
        # The properties that are not fields of a request, by the definition that has them.
        self._nested: Mapping[str, Mapping[str, Schema]] = {
            "AdapterField": {
                "name": _enum(profile.adapters if profile else ()),
                "scale": _bounds(Bounds(-MAX_ADAPTER_SCALE, MAX_ADAPTER_SCALE)),
            },
            "ControlNetField": {
                "name": _enum(profile.controlnets if profile else ()),
                "scale": _bounds(Bounds(0, MAX_CONTROLNET_SCALE)),
            },
            "InstancesBody": {
                "instances": {"minItems": 1, "maxItems": settings.max_images_per_request}
            },
        }

    def bounded(self, schema: Schema, name: str = "") -> Schema:
        """The schema of an object with the bounds of its fields; ``name`` is its definition's."""
        properties = {
            written: self._property(written, found) | self._nested.get(name, {}).get(written, {})
            for written, found in schema.get("properties", {}).items()
        }
        return schema | {"properties": properties} if properties else schema

    def _property(self, written: str, schema: Schema) -> Schema:
        field = _FIELDS.get(CANONICAL.get(written, written))
        if field is None:
            # The sides of a square are bounded like any others.
            field = _FIELDS["width"] if written == "img_size" else None
        if field is None or _OWN_BOUNDS & schema.keys():
            return _without_null_default(schema)
        bounds = self._limits.bounds_of(field)
        added = (_bounds(bounds) if bounds else {}) | self._choices(field)
        if "anyOf" in schema:
            schema = schema | {"anyOf": [_narrowed(one, added) for one in schema["anyOf"]]}
        else:
            schema = _narrowed(schema, added)
        default = {} if written == "img_size" else self._default(field)
        return _without_null_default(schema) | default

    def _choices(self, field: RequestField) -> Schema:
        if not field.choices or not self._profile:
            return {}
        names = field.choices(self._profile)
        return _enum([*names, *(one for one, name in EQUIVALENTS.items() if name in names)])

    def _default(self, field: RequestField) -> Schema:
        """The default of the model, or that of the table if it is a JSON value."""
        value = getattr(self._profile.defaults, field.name, None) if self._profile else None
        if value is None:
            try:
                value = orjson.loads(field.default)
            except orjson.JSONDecodeError:
                return {}
        return {"default": value}


def _bounds(bounds: Bounds) -> Schema:
    """Keywords for numbers and for strings, as each applies to values of its own type only."""
    # The seed -1, the only exception.
    least = -1 if bounds.exception else bounds.least
    number = {
        "exclusiveMinimum" if bounds.is_open else "minimum": least,
        "maximum": bounds.most,
    }
    if bounds.multiple > 1:
        number["multipleOf"] = bounds.multiple
    return number


def _enum(values: Sequence[str]) -> Schema:
    return {"enum": [*values]} if values else {}


_OF_STRINGS = {"minimum": "minLength", "maximum": "maxLength"}


def _narrowed(schema: Schema, added: Schema) -> Schema:
    """The schema of a scalar with further keywords; any other schema as it is."""
    kind = schema.get("type")
    if kind == "string":
        return schema | {_OF_STRINGS.get(name, name): value for name, value in added.items()}
    return schema | added if kind in ("integer", "number") else schema


def _without_null_default(schema: Schema) -> Schema:
    """A field that is left out takes the model's default, which null does not say."""
    if schema.get("default", "") is None:
        return {name: value for name, value in schema.items() if name != "default"}
    return schema


def in_form(schema: Schema) -> Schema:
    """The schema of a field in a form or a query, where null and ``{"b64": …}`` are impossible."""
    if "anyOf" not in schema:
        return schema
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    used: Schema = schema["anyOf"][0]
    return used | rest
