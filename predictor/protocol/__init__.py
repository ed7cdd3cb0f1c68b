"""The wire format: KServe's v1 ``:predict`` bodies to requests, and results to bodies. No torch."""

from predictor.protocol.call import Call, EncodedResponse, Encoder, Picture
from predictor.protocol.decode import accepts_events, decode_call, is_light, parse
from predictor.protocol.encode import ResponseEncoder

__all__ = [
    "Call",
    "EncodedResponse",
    "Encoder",
    "Picture",
    "ResponseEncoder",
    "accepts_events",
    "decode_call",
    "is_light",
    "parse",
]
