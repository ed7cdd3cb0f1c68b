"""KServe's v1 ``:predict``. KServe has the route."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from predictor.protocol import parse
from predictor.protocol.decode import ParsedBody, read_document
from predictor.requests import CallLimits
from predictor.wire_formats.wire_format import Message, WireFormat


class Predict(WireFormat):
    """See ``predictor.protocol``."""

    name = "predict"

    def document(self, content: Any, headers: Mapping[str, str]) -> dict[str, Any]:
        """The body as a JSON object; the content type is ignored."""
        return read_document(content)

    def parse(self, document: Any, message: Message, limits: CallLimits) -> ParsedBody:
        """See ``predictor.protocol.parse``."""
        return parse(document, message.headers.get("accept"), limits)


PREDICT = Predict()
