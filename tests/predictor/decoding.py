"""Decodes a request body in one step, where the server takes two."""

from __future__ import annotations

from typing import Any

from predictor.protocol import Call, decode_call, parse
from predictor.requests import Limits


def decode(body: dict[str, Any], limits: Limits) -> Call:
    """Decode as the server does for a request without an `Accept` header."""
    return decode_call(parse(body, None, limits), limits)
