"""KServe's v1 ``:predict``. KServe has the route."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from predictor.images import FORMATS
from predictor.protocol import parse
from predictor.protocol.accept import EVENT_STREAM, JSON
from predictor.protocol.body import EXAMPLE_PROMPT, PREDICTIONS, body_schema
from predictor.protocol.decode import ParsedBody, read_document
from predictor.protocol.json_schema import BINARY
from predictor.requests import CallLimits
from predictor.wire_formats.wire_format import Answer, BodySchema, Message, WireFormat


class Predict(WireFormat):
    """See ``predictor.protocol``."""

    name = "predict"
    paths: ClassVar[tuple[str, ...]] = ("/v1/models/{model_name}:predict",)
    summary = "Make pictures, over KServe's v1 protocol"
    description = (
        "One prompt, or `instances`. A call for one picture returns its file, any other JSON. "
        "`Accept` chooses the format: a picture, `application/json` or `text/event-stream`. "
        "CloudEvents work too."
    )

    def document(self, content: Any, headers: Mapping[str, str]) -> dict[str, Any]:
        """The body as a JSON object; the content type is ignored."""
        return read_document(content)

    def parse(self, document: Any, message: Message, limits: CallLimits) -> ParsedBody:
        """See ``predictor.protocol.parse``."""
        return parse(document, message.headers.get("accept"), limits)

    def body_schema(self, definitions_at: str) -> BodySchema:
        """Both forms of a body."""
        return BodySchema(JSON, *body_schema(definitions_at))

    def answers(self) -> tuple[Answer, ...]:
        """A bare file, predictions, or events."""
        media_types = dict.fromkeys(FORMATS.values())
        content = {f"image/{name}": BINARY for name in media_types}
        content |= {JSON: PREDICTIONS, EVENT_STREAM: {"type": "string"}}
        return (Answer("The picture, the predictions, or a stream of both's events.", content),)

    def examples(self) -> dict[str, dict[str, Any]]:
        """One of each form."""
        return {
            "one prompt": {"prompt": EXAMPLE_PROMPT, "seed": 7},
            "KServe's instances": {
                "instances": [{"prompt": EXAMPLE_PROMPT, "seed": 7}],
                "parameters": {"output_format": "webp"},
            },
        }


PREDICT = Predict()
