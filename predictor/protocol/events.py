"""A call's progress and answer as server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

EVENT_STREAM = "text/event-stream"


def progress_event(step: int, steps: int) -> bytes:
    """``step`` of ``steps`` are done, over all pictures of the call."""
    return _event("progress", {"step": step, "steps": steps})


def result_event(answer: Mapping[str, Any]) -> bytes:
    """The last event of a call that succeeded: what JSON would have answered."""
    return _event("result", answer)


def error_event(reason: str) -> bytes:
    """The last event of a call that failed."""
    return _event("error", {"error": reason})


def _event(name: str, data: Mapping[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data))
