"""The fields of a ``:predict`` body: names and JSON types, and what to say of a wrong one."""

from __future__ import annotations

import difflib
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from predictor.errors import InvalidRequestError
from predictor.images import OutputFormat

Body = TypeVar("Body", bound=BaseModel)


class AdapterField(BaseModel):
    """One LoRA of those a picture is to be made with."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str
    scale: float = 1.0


class ControlNetField(BaseModel):
    """What steers the layout; ``image`` as in ``Parameters``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str
    image: str
    scale: float = 1.0


class Parameters(BaseModel):
    """What may stand under ``parameters``; a field left out, or null, takes the model's default.

    Images are base64 (RFC 4648, section 4) or data URIs (RFC 2397) with it.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    negative_prompt: str | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    scheduler: str | None = None
    image: str | None = None
    mask_image: str | None = None
    strength: float | None = None
    adapters: list[AdapterField] | None = None
    controlnet: ControlNetField | None = None
    denoising_end: float | None = None
    num_images_per_prompt: int | None = None
    output_format: OutputFormat | None = None

    def given(self) -> dict[str, Any]:
        """The fields of ``Parameters`` that the caller set."""
        values = self.model_dump(include=set(Parameters.model_fields))
        return {name: value for name, value in values.items() if value is not None}


class Instance(Parameters):
    """One prompt with its parameters, flat, under ``parameters``, or some of each."""

    prompt: str
    parameters: Parameters = Parameters()

    @model_validator(mode="after")
    def _no_field_twice(self) -> Self:
        twice = self.given().keys() & self.parameters.given().keys()
        if twice:
            name = min(twice)
            raise ValueError(f"{name} is given twice, flat and under parameters")
        return self

    def merged(self) -> dict[str, Any]:
        """All parameters of this instance, wherever they stood."""
        return {"prompt": self.prompt} | self.given() | self.parameters.given()


class InstancesBody(BaseModel):
    """KServe's v1 form: several instances and the parameters they share."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    instances: list[Instance]
    parameters: Parameters = Parameters()


def validated(body_type: type[Body], document: Any) -> Body:
    """Read ``document`` as ``body_type``.

    Raises:
        InvalidRequestError: names the first wrong field, its value and what was expected.
    """
    try:
        return body_type.model_validate(document)
    except ValidationError as error:
        raise _explained(error.errors(include_url=False)[0]) from None


def _explained(detail: ErrorDetails) -> InvalidRequestError:
    field = _path(detail["loc"])
    if detail["type"] == "extra_forbidden":
        return InvalidRequestError(field, f"unknown parameter{_suggestion(str(detail['loc'][-1]))}")
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


def _suggestion(name: str) -> str:
    known = [*Instance.model_fields, "instances"]
    nearest = difflib.get_close_matches(name, known, n=1)
    if nearest:
        return f"; did you mean {nearest[0]!r}?"
    return f"; known are {', '.join(known)}"


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
