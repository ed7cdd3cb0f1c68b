"""Which requests are calls of a model, and the model that their path names."""

from __future__ import annotations

import re
from collections.abc import Callable

from starlette.types import Scope

from predictor.wire_formats import WIRE_FORMATS

# The path that gRPC itself gives to the call; only RPCs reach it.
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
_NAME = re.escape("{model_name}")
_PATHS = {
    route: re.compile(re.escape(route).replace(_NAME, "(?P<model_name>[^/:]+)"))
    for route in (MODEL_INFER, *(path for one in WIRE_FORMATS.values() for path in one.paths))
}


def inference_route(path: str) -> str | None:
    """The route of a call of a model, in any protocol, with ``{model_name}``; None for others."""
    return next((route for route, paths in _PATHS.items() if paths.fullmatch(path)), None)


def is_inference(scope: Scope) -> bool:
    """Whether a request is a call of a model."""
    return inference_route(scope["path"]) is not None


def named_model(scope: Scope) -> str | None:
    """The name in the path of a call; None if it has none, and for other requests."""
    route = inference_route(scope["path"])
    found = _PATHS[route].fullmatch(scope["path"]) if route else None
    return found.groupdict().get("model_name") if found else None


def called_model(scope: Scope, only_model: Callable[[str], str | None]) -> str | None:
    """The model that a POST call reaches, if that is known before its body is read.

    ``only_model`` returns the name of the only model for the path of a call; None if there are
    several, or if the server does not have the route.
    """
    if scope["type"] != "http" or scope["method"] != "POST" or not is_inference(scope):
        return None
    return named_model(scope) or only_model(scope["path"])
