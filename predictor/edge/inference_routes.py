"""Which requests are calls of a model, and the model that their path names."""

from __future__ import annotations

import re

from starlette.types import Scope

from predictor.adapters import ROUTED

_TEMPLATES = ("/v1/models/{model_name}:predict", *(path for one in ROUTED for path in one.paths))
_NAME = re.escape("{model_name}")
_PATHS = [
    re.compile(re.escape(path).replace(_NAME, "(?P<model_name>[^/:]+)")) for path in _TEMPLATES
]


def is_inference(scope: Scope) -> bool:
    """Whether a request is a call of a model, in any protocol."""
    return any(one.fullmatch(scope["path"]) for one in _PATHS)


def named_model(scope: Scope) -> str | None:
    """The name in the path of a call; None if it has none, and for other requests."""
    found = next((match for one in _PATHS if (match := one.fullmatch(scope["path"]))), None)
    return found.groupdict().get("model_name") if found else None
