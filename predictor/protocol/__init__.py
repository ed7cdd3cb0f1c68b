"""The wire format: KServe's v1 ``:predict`` bodies to requests, and results to bodies. No torch."""

from predictor.protocol.decode import (
    Call,
    Picture,
    accepts_events,
    decode_call,
    is_light,
    is_small,
    parse,
)
from predictor.protocol.encode import EncodedResponse, ResponseEncoder

__all__ = [
    "Call",
    "EncodedResponse",
    "Picture",
    "ResponseEncoder",
    "accepts_events",
    "decode_call",
    "is_light",
    "is_small",
    "parse",
]
