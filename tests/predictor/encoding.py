"""Encodes a response as the server does, in one go."""

from __future__ import annotations

from collections.abc import Sequence

from predictor.protocol import Call, EncodedResponse, ResponseEncoder
from predictor.requests import GenerationResult


def encode(
    call: Call, results: Sequence[GenerationResult], *, embed_metadata: bool = True
) -> EncodedResponse:
    """The response of model ``sd`` at revision ``r1``."""
    encoder = ResponseEncoder(
        call, results, model_name="sd", revision="r1", embed_metadata=embed_metadata
    )
    for index in range(encoder.pictures):
        encoder.add(index)
    return encoder.response()
