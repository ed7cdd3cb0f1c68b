"""Names and types of the fields in a JSON document, checked against the table."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import ErrorDetails

from predictor.errors import InvalidRequestError
from predictor.requests.field_types import STRICT, Size
from predictor.requests.fields import CANONICAL, COMPOUNDS, FIELDS, SIZE_HELP

_MAX_NAME_LENGTH = 256

Body = TypeVar("Body", bound=BaseModel)


def _add_aliases(schema: dict[str, Any]) -> None:
    properties = schema["properties"]
    for alias, name in CANONICAL.items():
        if alias != name and name in properties:
            properties[alias] = properties[name] | {"description": f"Alias of `{name}`."}


class Document(BaseModel):
    """A JSON object with fields of the table, under their names or their aliases."""

    model_config = STRICT | ConfigDict(json_schema_extra=_add_aliases)

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, document: Any) -> Any:
        """Replace aliases by names, and drop nulls: a field that is null takes its default."""
        if not isinstance(document, Mapping):
            return document
        check_given_once(spellings(document))
        return {
            CANONICAL.get(name, name): value
            for name, value in document.items()
            if value is not None or name not in CANONICAL
        }


# ``Any``, as the fields of a model that is built at run time are unknown to the type checker.
_optional: Any = {
    field.name: (field.type | None, Field(None, description=field.help))
    for field in FIELDS
    if field.name != "prompt"
}
_optional["size"] = (Size | None, Field(None, description=SIZE_HELP))
Parameters: type[Document] = create_model("Parameters", __base__=Document, **_optional)
"""All fields but ``prompt``, and the compounds; each may be missing."""

_FIELDS_OF = {written: (name,) for written, name in CANONICAL.items()} | dict(COMPOUNDS)


def spellings(document: object, prefix: str = "") -> list[tuple[str, str]]:
    """The fields of a JSON object that are not null: name, and how the caller wrote it."""
    if not isinstance(document, Mapping):
        return []
    return [
        (name, prefix + written)
        for written, value in document.items()
        if value is not None
        for name in _FIELDS_OF.get(written, ())
    ]


def check_given_once(names: Iterable[tuple[str, str]]) -> None:
    """Refuse a field that a caller writes twice.

    Raises:
        ValueError: names the field and both spellings.
    """
    known: dict[str, str] = {}
    for name, written in names:
        if name in known:
            raise ValueError(f"{name} is given twice, as `{known[name]}` and `{written}`")
        known[name] = written


def given(document: Document) -> dict[str, Any]:
    """The values of the fields that the caller set."""
    values = document.model_dump(include={field.name for field in FIELDS} | COMPOUNDS.keys())
    for compound, names in COMPOUNDS.items():
        values |= zip(names, values.pop(compound) or (), strict=False)
    return {name: value for name, value in values.items() if value is not None}


def validated(body_type: type[Body], document: Any) -> Body:
    """Read ``document`` as ``body_type``.

    Raises:
        InvalidRequestError: names the first wrong field as the caller wrote it, its value and what
            was expected.
    """
    try:
        return body_type.model_validate(document)
    except ValidationError as error:
        details = error.errors(include_url=False)
    detail = _first(details)
    field = _path(_as_written(document, detail["loc"]))
    raise InvalidRequestError(field, _reason(detail, body_type))


def _first(details: Sequence[ErrorDetails]) -> ErrorDetails:
    """A missing field, unless a name in the wrong place or a misspelled one explains it."""
    missing = [detail for detail in details if detail["type"] == "missing"]
    unknown = [detail for detail in details if detail["type"] == "extra_forbidden"]
    names = [str(detail["loc"][-1]) for detail in missing]
    explaining = [
        detail
        for detail in unknown
        if difflib.get_close_matches(str(detail["loc"][-1]), names, n=1)
    ]
    return (*explaining, *missing, *details)[0]


def shortened(value: Any) -> str:
    """A value as JSON, up to 80 characters."""
    text = ""
    # In chunks, as a value may be large, or nested too deeply for ``json.dumps``.
    for chunk in json.JSONEncoder(ensure_ascii=False).iterencode(value):
        text += chunk
        if len(text) > 80:
            return f"{text[:77]}..."
    return text


_EXPECTED = {
    "bool_type": "true or false",
    "float_type": "a number",
    "int_type": "an integer",
    "list_type": "a list",
    "model_type": "a JSON object",
    "string_type": "a string",
    "tuple_type": 'a string such as "512x768"',
}
"""What a value must be, by the type of pydantic's error."""


def _reason(detail: ErrorDetails, body_type: type[BaseModel]) -> str:
    if detail["type"] == "extra_forbidden":
        return _advice(detail["loc"], body_type)
    if detail["type"] == "missing":
        return "is missing"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] == "literal_error":
        expected = f"one of {detail['ctx']['expected'].replace(' or ', ', ')}".replace("'", "")
        return f"must be {expected}, not {shortened(detail['input'])}"
    # The fallback names no type, as pydantic's own texts name its classes and ours.
    expected = _EXPECTED.get(detail["type"], "a valid value")
    return f"must be {expected}, not {shortened(detail['input'])}"


def _as_written(document: Any, location: tuple[int | str, ...]) -> list[int | str]:
    """The location with each name in the caller's spelling."""
    written: list[int | str] = []
    for part in location:
        name = part
        if isinstance(document, Mapping):
            name = dict(spellings(document)).get(str(part), part)
        written.append(name)
        is_there = name in document if isinstance(document, Mapping) else isinstance(name, int)
        document = document[name] if is_there else None
    return written


def _path(location: Sequence[int | str]) -> str:
    """``["instances", 2, "width"]`` as ``instances[2].width``."""
    path = ""
    for part in location:
        name = part if part != "" else '""'
        path += f"[{name}]" if isinstance(name, int) else f".{name}" if path else name
    return path


def _advice(location: tuple[int | str, ...], body_type: type[BaseModel]) -> str:
    """Where a name belongs; else the nearest name, or all names of the object."""
    names = [part for part in location if isinstance(part, str)]
    # The search takes time that grows with the length.
    objects, name = names[:-1], names[-1][:_MAX_NAME_LENGTH]
    if place := _place(name, objects, body_type):
        return f"put {place}"
    accepted = _accepted(_object_type(body_type, objects))
    for nearest in difflib.get_close_matches(name, accepted, n=1):
        return f"unknown parameter; did you mean {nearest!r}?"
    for nearest in difflib.get_close_matches(name, CANONICAL, n=1) if not objects else ():
        if place := _place(nearest, objects, body_type):
            return f"unknown parameter; did you mean {nearest!r}? Put {place}"
    known = dict.fromkeys(CANONICAL.get(name, name) for name in accepted)
    return f"unknown parameter; known are {', '.join(_with_aliases(name) for name in known)}"


def _with_aliases(field: str) -> str:
    """``num_inference_steps`` as ``num_inference_steps (steps)``."""
    aliases = [alias for alias, name in CANONICAL.items() if name == field != alias]
    return f"{field} ({', '.join(aliases)})" if aliases else field


def _place(name: str, objects: Sequence[str], body_type: type[BaseModel]) -> str:
    """Where else in the body a name is accepted; empty if nowhere."""
    if name in objects:
        return ""
    if objects and name in _accepted(body_type):
        return f"`{name}` outside `{objects[-1]}`"
    places = {"parameters": "under `parameters`", "instances": "into an instance"}
    found = [
        place
        for field, place in places.items()
        if field in body_type.model_fields and name in _accepted(_object_type(body_type, [field]))
    ]
    return f"it {' or '.join(found)}" if found else ""


def _accepted(object_type: type[BaseModel]) -> list[str]:
    """The names and aliases that an object may have."""
    names = object_type.model_fields
    if not issubclass(object_type, Document):
        return [*names]
    aliases = [alias for alias, name in CANONICAL.items() if name in names]
    return [*aliases, *(name for name in names if name not in CANONICAL)]


def _object_type(body_type: type[BaseModel], objects: Sequence[str]) -> type[BaseModel]:
    """The type of the object at the end of a path of field names."""
    for field in objects:
        body_type = next(_models_in(body_type.model_fields[CANONICAL.get(field, field)].annotation))
    return body_type


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
