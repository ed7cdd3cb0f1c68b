"""Names and types of the fields in a JSON document, checked against the table."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, create_model, model_validator
from pydantic_core import ErrorDetails

from predictor.errors import InvalidRequestError
from predictor.requests.fields import CANONICAL, FIELDS, STRICT

Body = TypeVar("Body", bound=BaseModel)


class Document(BaseModel):
    """A JSON object with fields of the table, under their names or their aliases."""

    model_config = STRICT

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
    field.name: (field.type | None, None) for field in FIELDS if field.name != "prompt"
}
Parameters: type[Document] = create_model("Parameters", __base__=Document, **_optional)
"""All fields but ``prompt``; each may be missing."""


def spellings(document: object, prefix: str = "") -> list[tuple[str, str]]:
    """The fields of a JSON object that are not null: name, and how the caller wrote it."""
    if not isinstance(document, Mapping):
        return []
    return [
        (CANONICAL[written], prefix + written)
        for written, value in document.items()
        if written in CANONICAL and value is not None
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
    values = document.model_dump(include={field.name for field in FIELDS})
    return {name: value for name, value in values.items() if value is not None}


def validated(body_type: type[Body], document: Any) -> Body:
    """Read ``document`` as ``body_type``.

    Raises:
        InvalidRequestError: names the first wrong field, its value and what was expected.
    """
    try:
        return body_type.model_validate(document)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        raise _explained(detail, (*body_type.model_fields,)) from None


def _explained(detail: ErrorDetails, names: tuple[str, ...]) -> InvalidRequestError:
    field = _path(detail["loc"])
    if detail["type"] == "extra_forbidden":
        suggestion = _suggestion(str(detail["loc"][-1]), names)
        return InvalidRequestError(field, f"unknown parameter; {suggestion}")
    if detail["type"] == "missing":
        return InvalidRequestError(field, "is missing")
    if detail["type"] == "value_error":
        return InvalidRequestError(field, str(detail["ctx"]["error"]))
    reason = detail["msg"][0].lower() + detail["msg"][1:]
    return InvalidRequestError(field, f"{_shortened(detail['input'])}: {reason}")


def _path(location: tuple[int | str, ...]) -> str:
    """``("instances", 2, "width")`` as ``instances[2].width``."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _suggestion(name: str, names: tuple[str, ...]) -> str:
    """The nearest name or alias; else all names of the table and of the body itself."""
    nearest = difflib.get_close_matches(name, [*CANONICAL, *names], n=1)
    if nearest:
        return f"did you mean {nearest[0]!r}?"
    known = dict.fromkeys([*(field.name for field in FIELDS), *names])
    return f"known are {', '.join(known)}"


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
