"""What a request may leave out: from the model folder's own file, else the usual."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

from modelstore.layout import GENERATION_DEFAULTS_NAME
from predictor.errors import ModelLoadError
from predictor.types import GenerationDefaults


def read_generation_defaults(folder: Path, fallback: GenerationDefaults) -> GenerationDefaults:
    """The defaults of the model in ``folder``, with ``fallback`` for what its file leaves out.

    Raises:
        ModelLoadError: the file is no JSON object, or has a field or a type that is not known.
    """
    path = folder / GENERATION_DEFAULTS_NAME
    if not path.exists():
        return fallback
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelLoadError(f"{GENERATION_DEFAULTS_NAME} is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise ModelLoadError(f"{GENERATION_DEFAULTS_NAME} must hold a JSON object")
    _check_types(given, asdict(fallback))
    return GenerationDefaults(**asdict(fallback) | given)


def _check_types(given: dict[str, object], known: dict[str, object]) -> None:
    for name, value in given.items():
        if name not in known:
            names = ", ".join(field.name for field in fields(GenerationDefaults))
            raise ModelLoadError(f"{GENERATION_DEFAULTS_NAME}: {name!r} is not one of {names}")
        # Of the numbers with a point some are None where the model has no use for them.
        is_float = known[name] is None or isinstance(known[name], float)
        allowed = (int, float) if is_float else (type(known[name]),)
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise ModelLoadError(f"{GENERATION_DEFAULTS_NAME}: {name} cannot be {value!r}")
