"""What the JSON value of a field may be, including the spellings of other servers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

from predictor.images import OutputFormat
from predictor.requests.sampler_names import scheduler_of

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)

_SIZE = re.compile(r"\s*([0-9]{1,9})\s*[xX]\s*([0-9]{1,9})\s*")


def _whole(value: Any) -> Any:
    """Read 20.0 and 1e9 as integers: JSON has only one type of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text_of(value: Any) -> Any:
    """Unwrap ``{"b64": …}``, the form of binary data in KServe's v1 protocol."""
    return value["b64"] if isinstance(value, Mapping) and [*value] == ["b64"] else value


def _scheduler(value: Any) -> Any:
    return scheduler_of(value) if isinstance(value, str) else value


def _format(value: Any) -> Any:
    return "jpeg" if value == "jpg" else value


def _sides(value: Any) -> Any:
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    return (int(found[1]), int(found[2])) if found else value


_BASE64: dict[str, Any] = {"type": "string"}
_BINARY: dict[str, Any] = {
    "type": "object",
    "properties": {"b64": _BASE64},
    "required": ["b64"],
    "additionalProperties": False,
}

WholeNumber = Annotated[int, BeforeValidator(_whole)]
PictureText = Annotated[
    str, BeforeValidator(_text_of), WithJsonSchema({"anyOf": [_BASE64, _BINARY]})
]
SchedulerName = Annotated[str, BeforeValidator(_scheduler)]
FormatName = Annotated[OutputFormat, BeforeValidator(_format)]
# Width and height in pixels.
Size = Annotated[
    tuple[int, int],
    BeforeValidator(_sides),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]+x[0-9]+$"}),
]


class AdapterField(BaseModel):
    """One entry of ``adapters``."""

    model_config = STRICT

    name: str
    scale: float = 1.0


class ControlNetField(BaseModel):
    """The value of ``controlnet``."""

    model_config = STRICT

    name: str
    image: PictureText
    scale: float = 1.0
