"""The wire format: KServe's v1 ``:predict`` bodies to requests, and results to bodies. No torch."""

from predictor.protocol.decode import Call, Picture, decode_call, parse
from predictor.protocol.encode import EncodedResponse, encode

__all__ = ["Call", "EncodedResponse", "Picture", "decode_call", "encode", "parse"]
