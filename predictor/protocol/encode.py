"""Results to a response: a bare file with headers, KServe's ``predictions``, or events."""

from __future__ import annotations

import base64
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import IO, Any

import orjson

from predictor.errors import RefusedBySafetyError
from predictor.images import OutputFormat, encode_image
from predictor.protocol.accept import JSON
from predictor.protocol.call import Call, EncodedResponse
from predictor.requests import PROMPT_LAYER, GenerationResult, Preview

# All headers of a response to ``:predict`` that are not of HTTP itself.
RESPONSE_HEADERS = (
    *("x-seed", "x-generation-seconds", "x-queue-seconds", "x-first-step-seconds"),
    *("x-model-name", "x-model-revision", "x-safety", "x-warning"),
)
# Most proxies reject headers of more than 8 KiB in total.
_MAX_HEADER_LENGTH = 1024

# The start of the last event of a stream.
_RESULT = b"event: result\ndata: "

# Of a preview, which is seen for a moment.
_PREVIEW_QUALITY = 80

# A multiple of three, so that the pieces of base64 join; each holds the GIL for about 1 ms.
_BASE64_PIECE = 3 * 2**18


class ResultEncoder(ABC):
    """Encodes one result for each picture of ``call``, in order.

    Files and base64 are built in pieces, because one call for all of them would hold the GIL for a
    tenth of a second.
    """

    def __init__(
        self,
        call: Call,
        results: Sequence[GenerationResult],
        *,
        model_name: str,
        revision: str,
        embed_metadata: bool,
    ) -> None:
        self.call = call
        self.results = results
        origin = {"model": model_name, "revision": revision}
        self._origin = origin if embed_metadata else None
        self.headers = _headers(results) | {
            "x-model-name": model_name,
            "x-model-revision": revision,
        }
        self.body = io.BytesIO()

    @property
    def pictures(self) -> int:
        """How many there are to add."""
        return len(self.results)

    def file(self, index: int, quality: int | None = None) -> bytes | None:
        """The file of a picture; None if it is blocked. See ``encode_image`` for ``quality``."""
        result, output_format = self.results[index], self.call.pictures[index].output_format
        if result.image is None:
            return None
        metadata = self.metadata(result) | self._origin if self._origin else None
        return encode_image(result.image, output_format, metadata, quality)

    def metadata(self, result: GenerationResult) -> dict[str, Any]:
        """What a file says about its picture: prompt and seed, the rest under ``parameters``."""
        parameters = result.request.parameters()
        return {
            "prompt": parameters.pop("prompt"),
            "seed": parameters.pop("seed"),
            "parameters": parameters,
        }

    @abstractmethod
    def add(self, index: int) -> None:
        """Encode the next picture, which takes up to a second."""

    @abstractmethod
    def response(self) -> EncodedResponse:
        """The response, once all pictures are added."""


class ResponseEncoder(ResultEncoder):
    """The responses of ``:predict``: a bare file, predictions, or the last event of a stream."""

    def __init__(self, call: Call, results: Sequence[GenerationResult], **origin: Any) -> None:
        super().__init__(call, results, **origin)
        if call.as_json:
            self.body.write(_RESULT if call.as_events else b"")
            self.body.write(b'{"predictions":[')

    def add(self, index: int) -> None:
        """Encode the next picture, which takes up to a second.

        Raises:
            RefusedBySafetyError: the answer is a bare file and its picture is blocked.
        """
        result, output_format = self.results[index], self.call.pictures[index].output_format
        file = self.file(index)
        if self.call.as_json:
            self.body.write(b"," if index else b"")
            _write_prediction(self.body, result, file, output_format)
        elif file is None:
            raise RefusedBySafetyError(refusal_of(result))
        else:
            self.body.write(file)

    def response(self) -> EncodedResponse:
        """The response, once all pictures are added."""
        if not self.call.as_json:
            media_type = f"image/{self.call.pictures[0].output_format}"
            return EncodedResponse(self.body.getvalue(), self.headers | _type(media_type))
        self.body.write(b"]}\n\n" if self.call.as_events else b"]}")
        return EncodedResponse(self.body.getvalue(), self.headers | _type(JSON))


def _type(media_type: str) -> dict[str, str]:
    return {"content-type": media_type}


def refusal_of(result: GenerationResult) -> str:
    """Names the layers, never the finding."""
    blocking = [verdict.layer for verdict in result.safety if verdict.action == "block"]
    field = "prompt" if PROMPT_LAYER in blocking else "picture"
    return f"{field}: refused by {' and '.join(blocking)}"


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


def _write_prediction(
    body: IO[bytes], result: GenerationResult, file: bytes | None, output_format: OutputFormat
) -> None:
    """Write one prediction as JSON."""
    if file is None:
        body.write(b'{"image":null')
    else:
        body.write(b'{"image":{"format":"%s","b64":"' % output_format.encode())
        write_base64(body, file)
        body.write(b'"}')
    body.write(b"," + orjson.dumps(_details(result))[1:])


def write_base64(body: IO[bytes], file: bytes) -> None:
    """Write a file as base64, in pieces; it has nothing to escape in JSON (RFC 4648)."""
    for start in range(0, len(file), _BASE64_PIECE):
        body.write(base64.b64encode(file[start : start + _BASE64_PIECE]))


def _details(result: GenerationResult) -> dict[str, Any]:
    """What a prediction has in addition to its picture; never empty."""
    details = result.request.parameters()
    if "image" in details:
        # ``image`` is the generated picture.
        details["input_image"] = details.pop("image")
    if result.warnings:
        details["warnings"] = list(result.warnings)
    if result.safety:
        details["safety"] = [asdict(verdict) for verdict in result.safety]
    return details


def progress_event(step: int, steps: int) -> bytes:
    """``step`` of ``steps`` denoising steps are done, over all pictures of the call."""
    return _event("progress", {"step": step, "steps": steps})


def preview_event(index: int, preview: Preview) -> bytes:
    """A preview of the picture with this index in the call, as a JPEG file."""
    body = io.BytesIO()
    body.write(b'event: preview\ndata: {"image":{"format":"jpeg","b64":"')
    write_base64(body, encode_image(preview.image, "jpeg", None, _PREVIEW_QUALITY))
    details = {"picture": index, "step": preview.step, "steps": preview.steps}
    body.write(b'"},' + orjson.dumps(details)[1:] + b"\n\n")
    return body.getvalue()


def waiting_event(reason: str, seconds: float) -> bytes:
    """The call waits for its model: ``reason`` is the phase of the load, ``seconds`` the wait."""
    return _event("waiting", {"reason": reason, "seconds": round(seconds, 1)})


def error_event(data: Mapping[str, Any]) -> bytes:
    """The last event of a call that fails."""
    return _event("error", data)


def _event(name: str, data: Mapping[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data))


class PredictEvents:
    """The events of ``:predict``, for a ``ResponseForm`` that has none of its own."""

    def progress_event(self, step: int, steps: int) -> bytes:
        """See ``ResponseForm``."""
        return progress_event(step, steps)

    def preview_event(self, call: Call, index: int, preview: Preview) -> bytes:
        """See ``ResponseForm``."""
        return preview_event(index, preview)
