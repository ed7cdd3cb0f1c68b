"""The size of a picture that is made from another, where the request does not give it."""

from __future__ import annotations

import math
from typing import Any

from predictor.errors import InvalidRequestError
from predictor.limits import MIN_SIDE, Limits


def settle_size(own: tuple[int, int], values: dict[str, Any], limits: Limits) -> dict[str, int]:
    """Width and height for an input image of the size ``own``, which ``values`` may give.

    One side alone decides the other by the picture's aspect; without any it is the picture's own
    size, scaled into the limits and rounded down to the model's multiple.

    Raises:
        InvalidRequestError: the side given is out of bounds, or no size within them has the
            picture's aspect.
    """
    width, height = own
    if "width" in values and "height" in values:
        return {}
    if "width" in values:
        limits.check_side("width", values["width"])
        return {"height": _rounded(values["width"] * height / width, limits)}
    if "height" in values:
        limits.check_side("height", values["height"])
        return {"width": _rounded(values["height"] * width / height, limits)}
    scale = _scale(width, height, limits)
    return {"width": _rounded(width * scale, limits), "height": _rounded(height * scale, limits)}


def _scale(width: int, height: int, limits: Limits) -> float:
    settings = limits.settings
    most = min(
        settings.max_side / max(width, height), math.sqrt(settings.max_pixels / (width * height))
    )
    least = MIN_SIDE / min(width, height)
    if least > most:
        raise InvalidRequestError(
            "image",
            f"{width} x {height} is too narrow to be scaled into the limits; give width and height",
        )
    return max(min(1.0, most), least)


def _rounded(side: float, limits: Limits) -> int:
    multiple = limits.profile.size_multiple
    # Past the error of the division: 64 must not become 56.
    return max(MIN_SIDE, int(side + 1e-6) // multiple * multiple)
