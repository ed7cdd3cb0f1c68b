"""The bodies of KServe's v1 ``:predict``: one prompt, or several instances."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, create_model, model_validator

from predictor.requests.fields import STRICT
from predictor.requests.validation import (
    Document,
    Parameters,
    check_given_once,
    given,
    spellings,
)


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
    prompt=(str, ...),
    parameters=(Parameters, Parameters()),
)
"""One prompt with its parameters, at the top, under ``parameters``, or some of each."""


class InstancesBody(BaseModel):
    """Several instances, and the parameters that they share."""

    model_config = STRICT

    instances: list[Instance]  # type: ignore[valid-type]  # built at run time
    parameters: Parameters = Parameters()  # type: ignore[valid-type]


def merged(instance: Any) -> dict[str, Any]:
    """All parameters of an ``Instance``, wherever the caller put them."""
    return given(instance) | given(instance.parameters)
