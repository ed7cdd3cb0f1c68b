"""The wire format: KServe's v1 ``:predict`` bodies to requests, and results to bodies. No torch."""

from predictor.protocol.decode import Call, Picture, decode_call, is_light, parse
from predictor.protocol.encode import EncodedResponse, ResponseEncoder

__all__ = [
    "Call",
    "EncodedResponse",
    "Picture",
    "ResponseEncoder",
    "decode_call",
    "is_light",
    "parse",
]
