"""What is known about the request that the current code serves: its identifiers and findings.

The server sets it once per request. Tasks and ``asyncio.to_thread`` inherit it; other threads run
in a copy of the context (``contextvars.copy_context``).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from predictor.stages import StageTime

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header: version, trace, parent, flags.
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(.*)"
)


class StepCount(Protocol):
    """The denoising steps of all pictures of a call."""

    @property
    def step(self) -> int:
        """The number of steps done."""

    @property
    def steps(self) -> int:
        """The total."""


@dataclass
class RequestContext:
    """One HTTP request.

    ``trace_id`` is empty without a trace, and ``caller``, the name of the API key, without keys.
    ``stages`` has the seed of the picture that a stage belongs to, None for the whole request.
    ``attributes`` describe the call in a trace. ``error`` is the type of the error it ends with.
    ``model`` is the model that a protocol names in the body. ``error_form`` makes the body of an
    error from its text, HTTP status and error; None for KServe's. ``progress`` is that of the
    pictures, once the engine has them.
    """

    request_id: str
    trace_id: str = ""
    caller: str = ""
    error: type[BaseException] | None = None
    stages: list[tuple[StageTime, int | None]] = field(default_factory=list)
    attributes: dict[str, str | int | float] = field(default_factory=dict)
    model: str = ""
    error_form: Callable[[str, int, BaseException | None], dict[str, Any]] | None = None
    progress: StepCount | None = None


_CURRENT: ContextVar[RequestContext | None] = ContextVar("request", default=None)


def current_request() -> RequestContext:
    """The current request; outside of one, a new context that nothing reads."""
    return _CURRENT.get() or RequestContext("")


def enter_request(request: RequestContext) -> None:
    """Make this the request of the current task."""
    _CURRENT.set(request)


def valid_request_id(given: str | None) -> str:
    """The caller's identifier, or a new one if it is not 1 to 128 of ``A-Za-z0-9._-``."""
    return given if given and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def trace_id_of(traceparent: str | None) -> str:
    """The trace identifier, 32 hexadecimal digits, of a ``traceparent`` header; "" if invalid."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    if found is None:
        return ""
    version, trace_id, rest = found.groups()
    # Later versions may append fields.
    return trace_id if not rest or (version != "00" and rest.startswith("-")) else ""
