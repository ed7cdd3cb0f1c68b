"""The wire formats other than ``:predict``, one module each: fields to requests, and back.

An adapter knows no torch, no engine and no HTTP framework. To add one, write its module and name it
here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from predictor.adapters import openai_errors
from predictor.adapters.adapter import Adapter, BodySchema, Message
from predictor.adapters.kserve_predict import PREDICT
from predictor.adapters.openai_images import ImageEdits, ImageGenerations
from predictor.adapters.picture_link import ImagineLink, PictureLink
from predictor.adapters.tensor_inference import TensorInference

ROUTED: tuple[Adapter, ...] = (
    ImageGenerations(),
    ImageEdits(),
    TensorInference(),
    PictureLink(),
    ImagineLink(),
)
"""The adapters that need a route."""

ADAPTERS = {adapter.name: adapter for adapter in (PREDICT, *ROUTED)}

ErrorForm = Callable[[str, int, BaseException | None], dict[str, Any]]
_ERROR_FORMS: tuple[tuple[re.Pattern[str], ErrorForm], ...] = (
    (openai_errors.PATHS, openai_errors.error_body),
)


def error_form(path: str) -> ErrorForm | None:
    """The form of error bodies at a path; None for that of KServe."""
    return next((form for paths, form in _ERROR_FORMS if paths.fullmatch(path)), None)


__all__ = ["ADAPTERS", "PREDICT", "ROUTED", "Adapter", "BodySchema", "Message", "error_form"]
