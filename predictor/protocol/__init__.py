"""The wire: KServe's v1 ``:predict`` bodies to requests, results to bodies. Never touches torch."""

from predictor.protocol.decode import Call, Picture, parse, settle
from predictor.protocol.encode import EncodedResponse, encode

__all__ = ["Call", "EncodedResponse", "Picture", "encode", "parse", "settle"]
