"""A body to the call it asks for, both halves of the protocol's decoding at once."""

from __future__ import annotations

from typing import Any

from predictor.protocol import Call, parse, settle
from predictor.requests import Limits


def decode(body: dict[str, Any], limits: Limits) -> Call:
    """As the server does for a caller who names no media type."""
    return settle(parse(body, None, limits), limits)
