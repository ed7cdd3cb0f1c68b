"""The wire formats other than ``:predict``, one module each: fields to requests, and back.

A wire format knows no torch, no engine and no HTTP framework. To add one, write its module and
name it here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from predictor.wire_formats import a1111_errors, openai_errors
from predictor.wire_formats.a1111_images import ImageToImage, TextToImage
from predictor.wire_formats.cloud_event import STRUCTURED_EVENT
from predictor.wire_formats.kserve_predict import PREDICT, Predict
from predictor.wire_formats.openai_images import ImageEdits, ImageGenerations
from predictor.wire_formats.picture_link import ImagineLink, PictureLink
from predictor.wire_formats.tensor_inference import TensorInference
from predictor.wire_formats.wire_format import BodySchema, Message, WireFormat

ROUTED: tuple[WireFormat, ...] = (
    ImageGenerations(),
    ImageEdits(),
    TensorInference(),
    PictureLink(),
    ImagineLink(),
)
"""The wire formats that need a route."""

A1111: tuple[WireFormat, ...] = (TextToImage(), ImageToImage())
"""Those of A1111, which the setting ``a1111_api`` turns on."""

WIRE_FORMATS = {one.name: one for one in (PREDICT, STRUCTURED_EVENT, *ROUTED, *A1111)}

ErrorForm = Callable[[str, int, BaseException | None], dict[str, Any]]
_ERROR_FORMS: tuple[tuple[re.Pattern[str], ErrorForm], ...] = (
    (openai_errors.PATHS, openai_errors.error_body),
    (a1111_errors.PATHS, a1111_errors.error_body),
)


def error_form(path: str) -> ErrorForm | None:
    """The form of error bodies at a path; None for that of KServe."""
    return next((form for paths, form in _ERROR_FORMS if paths.fullmatch(path)), None)


__all__ = [
    "A1111",
    "PREDICT",
    "ROUTED",
    "STRUCTURED_EVENT",
    "WIRE_FORMATS",
    "BodySchema",
    "Message",
    "Predict",
    "WireFormat",
    "error_form",
]
