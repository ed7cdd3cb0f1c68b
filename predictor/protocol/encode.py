"""Results to a response: a bare file with headers, KServe's ``predictions``, or events."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from predictor.errors import RefusedBySafetyError
from predictor.images import OutputFormat, encode_image
from predictor.protocol.accept import JSON
from predictor.protocol.decode import Call
from predictor.requests import PROMPT_LAYER, GenerationResult

# Most proxies reject headers of more than 8 KiB in total.
_MAX_HEADER_LENGTH = 1024


@dataclass(frozen=True)
class EncodedResponse:
    """A body and its headers; the server writes a dict as JSON."""

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
    """Encode one result for each picture of ``call``, in order.

    Raises:
        RefusedBySafetyError: the answer is a bare file and its picture is blocked.
    """
    origin = {"model": model_name, "revision": revision}
    files = [
        _file(result, picture.output_format, origin if embed_metadata else None)
        for picture, result in zip(call.pictures, results, strict=True)
    ]
    headers = _headers(results) | {"x-model-name": model_name, "x-model-revision": revision}
    if call.as_json:
        predictions = [
            _prediction(result, file, picture.output_format)
            for picture, result, file in zip(call.pictures, results, files, strict=True)
        ]
        return EncodedResponse({"predictions": predictions}, headers | {"content-type": JSON})
    if files[0] is None:
        raise RefusedBySafetyError(_refusal(results[0]))
    media_type = f"image/{call.pictures[0].output_format}"
    return EncodedResponse(files[0], headers | {"content-type": media_type})


def _file(
    result: GenerationResult, output_format: OutputFormat, origin: dict[str, str] | None
) -> bytes | None:
    """The picture's file, with its parameters if ``origin`` is given; None if it is blocked."""
    if result.image is None:
        return None
    metadata = _metadata(result) | origin if origin else None
    return encode_image(result.image, output_format, metadata)


def _refusal(result: GenerationResult) -> str:
    """Names the layers, never the finding."""
    blocking = [verdict.layer for verdict in result.safety if verdict.action == "block"]
    field = "prompt" if PROMPT_LAYER in blocking else "picture"
    return f"{field}: refused by {' and '.join(blocking)}"


def _metadata(result: GenerationResult) -> dict[str, Any]:
    """The metadata of a file: prompt and seed as fields, the rest under ``parameters``."""
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
        "x-first-step-seconds": f"{_first_step_seconds(results):.3f}",
    }
    warnings = dict.fromkeys(warning for result in results for warning in result.warnings)
    if warnings:
        headers["x-warning"] = _warnings_header([*warnings])
    verdicts = dict.fromkeys(verdict for result in results for verdict in result.safety)
    if verdicts:
        headers["x-safety"] = ", ".join(f"{one.layer}={one.action}" for one in verdicts)
    return headers


def _first_step_seconds(results: Sequence[GenerationResult]) -> float:
    """Of the first picture that took a step; a blocked prompt takes none."""
    return min((result.first_step_seconds for result in results if result.seconds), default=0.0)


def _warnings_header(warnings: Sequence[str]) -> str:
    """All warnings in one value; a long one is cut so that each of the others has its share."""
    left = _MAX_HEADER_LENGTH - len("; ") * (len(warnings) - 1)
    values = {}
    # Short ones first: what they leave is for the longer ones.
    for done, warning in enumerate(sorted(warnings, key=len)):
        values[warning] = _cut(warning, left // (len(warnings) - done))
        left -= len(values[warning])
    return "; ".join(values[warning] for warning in warnings)


def _cut(text: str, most: int) -> str:
    """Text as a header value of at most ``most`` characters; a cut one ends with dots."""
    value = _as_header(text)
    if len(value) <= most:
        return value
    cut = ""
    # Character by character, as half an escape has no meaning.
    for escaped in map(_as_header, text):
        if len(cut) + len(escaped) > most - len("..."):
            break
        cut += escaped
    return f"{cut}..."


def _as_header(text: str) -> str:
    """Text as a header value: control and non-ASCII characters are escaped as in JSON."""
    return json.dumps(text)[1:-1].replace('\\"', '"').replace("\x7f", "\\u007f")


def _prediction(
    result: GenerationResult, file: bytes | None, output_format: OutputFormat
) -> dict[str, Any]:
    image = file and {"format": output_format, "b64": base64.b64encode(file).decode("ascii")}
    parameters = result.request.parameters()
    if "image" in parameters:
        # ``image`` is the generated picture.
        parameters["input_image"] = parameters.pop("image")
    prediction = {"image": image, **parameters}
    if result.warnings:
        prediction["warnings"] = list(result.warnings)
    if result.safety:
        prediction["safety"] = [asdict(verdict) for verdict in result.safety]
    return prediction


def progress_event(step: int, steps: int) -> bytes:
    """``step`` of ``steps`` denoising steps are done, over all pictures of the call."""
    return _event("progress", {"step": step, "steps": steps})


def result_event(answer: Mapping[str, Any]) -> bytes:
    """The last event of a call that succeeds: the JSON answer."""
    return _event("result", answer)


def error_event(reason: str) -> bytes:
    """The last event of a call that fails."""
    return _event("error", {"error": reason})


def _event(name: str, data: Mapping[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data))
