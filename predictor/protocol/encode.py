"""Results to a response: the bare file with headers, or KServe's ``predictions``."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from predictor.images import OutputFormat, encode_image
from predictor.protocol.accept import JSON
from predictor.protocol.decode import Call
from predictor.types import GenerationResult

# Proxies refuse long headers, most of them above 8 KiB for all together.
_MAX_HEADER_LENGTH = 1024


@dataclass(frozen=True)
class EncodedResponse:
    """A body and its headers; a dict is left to the server to write as JSON."""

    body: bytes | dict[str, Any]
    headers: dict[str, str]


def encode(
    call: Call,
    results: Sequence[GenerationResult],
    *,
    model_name: str,
    revision: str,
    embed_metadata: bool,
) -> EncodedResponse:
    """Answer ``call`` with one result for each of its pictures, in order."""
    origin = {"model": model_name, "revision": revision}
    files = [
        encode_image(
            result.image,
            picture.output_format,
            _metadata(result) | origin if embed_metadata else None,
        )
        for picture, result in zip(call.pictures, results, strict=True)
    ]
    headers = _headers(results) | {"x-model-name": model_name, "x-model-revision": revision}
    if call.as_json:
        predictions = [
            _prediction(result, file, picture.output_format)
            for picture, result, file in zip(call.pictures, results, files, strict=True)
        ]
        return EncodedResponse({"predictions": predictions}, headers | {"content-type": JSON})
    media_type = f"image/{call.pictures[0].output_format}"
    return EncodedResponse(files[0], headers | {"content-type": media_type})


def _metadata(result: GenerationResult) -> dict[str, Any]:
    """What a picture says of itself: the prompt and seed on their own, the rest together."""
    parameters = result.request.parameters()
    return {
        "prompt": parameters.pop("prompt"),
        "seed": parameters.pop("seed"),
        "parameters": parameters,
    }


def _headers(results: Sequence[GenerationResult]) -> dict[str, str]:
    headers = {
        "x-seed": ", ".join(str(result.request.seed) for result in results),
        "x-generation-seconds": f"{sum(result.seconds for result in results):.3f}",
        "x-queue-seconds": f"{max(result.queue_seconds for result in results):.3f}",
        "x-first-step-seconds": f"{min(result.first_step_seconds for result in results):.3f}",
    }
    warnings = dict.fromkeys(warning for result in results for warning in result.warnings)
    if warnings:
        headers["x-warning"] = _as_header("; ".join(warnings))[:_MAX_HEADER_LENGTH]
    return headers


def _as_header(text: str) -> str:
    """Any text as a header value: control and non-ASCII characters escaped as in JSON."""
    return json.dumps(text)[1:-1].replace('\\"', '"')


def _prediction(
    result: GenerationResult, file: bytes, output_format: OutputFormat
) -> dict[str, Any]:
    image = {"format": output_format, "b64": base64.b64encode(file).decode("ascii")}
    parameters = result.request.parameters()
    if "image" in parameters:
        # The name is taken by the picture that was made.
        parameters["input_image"] = parameters.pop("image")
    prediction = {"image": image, **parameters}
    if result.warnings:
        prediction["warnings"] = list(result.warnings)
    return prediction
