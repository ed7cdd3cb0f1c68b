"""Calls that arrive before their model is loaded: who may wait, and what a stream reports.

Readiness does not change: it keeps the cluster's requests away until the model is loaded. Requests
arrive earlier if a client connects to the pod itself, if its container restarts, or if the model is
one of a volume.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from predictor.edge.error_responses import not_ready, response_to
from predictor.edge.inference_routes import called_model
from predictor.edge.progress import Progress
from predictor.errors import OverloadedError
from predictor.intake.pool import READERS
from predictor.protocol import accepts_events
from predictor.protocol.encode import waiting_event
from predictor.requests import CallLimits
from predictor.residency import Residency, Resident
from predictor.settings import Settings
from predictor.wire_formats import Message

# Below the idle timeouts of proxies, the shortest of which are 15 to 60 seconds.
_REPEAT_SECONDS = 5.0


class LoadWaitMiddleware:
    """Refuse a call to a model that is not loaded, unless it may wait, before its body is read.

    ``residency_of`` returns None for a name that the server does not know. ``all_wait`` says
    whether every call may wait; a stream always may, because it reports the wait. ``only_model``
    is as in ``OverloadMiddleware``.
    """

    def __init__(
        self,
        app: ASGIApp,
        residency_of: Callable[[str], Residency | None],
        all_wait: Callable[[], bool],
        is_draining: Callable[[], bool],
        only_model: Callable[[str], str | None],
    ) -> None:
        self._app = app
        self._residency_of = residency_of
        self._all_wait = all_wait
        self._is_draining = is_draining
        self._only_model = only_model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call with 503 if it must not wait, or 429 if too many wait."""
        await (self._refusal(scope) or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        name = called_model(scope, self._only_model)
        residency = self._residency_of(name) if name else None
        if not name or residency is None or residency[name].is_open:
            return None
        if not self._all_wait() and not accepts_events(Headers(scope=scope).get("accept")):
            return not_ready(name)
        try:
            residency.check_place(name)
        except OverloadedError as error:
            return response_to(error, is_draining=self._is_draining())
        return None


async def timeout_of(message: Message, settings: Settings) -> float | None:
    """Check the names and types of a call's fields before it waits, and return its ``timeout``.

    The model's own bounds are checked once it is loaded.

    Raises:
        InvalidRequestError: names the field and the reason.
    """
    limits = CallLimits(settings)
    if message.is_small:
        return message.parse(message.document(), limits).timeout
    return await READERS.read(
        message,
        lambda document, _: message.parse(document, limits).timeout,
        settings.max_image_pixels,
    )


class WaitReport:
    """A stream's ``Report``: the phase of the load, then the progress of the pictures."""

    def __init__(self, resident: Resident) -> None:
        self._resident = resident
        self._changed = asyncio.Event()
        self._started = asyncio.get_running_loop().time()
        self._progress: Progress | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Report the changes of the load inside the context."""
        with self._resident.phase.watched(self._changed):
            yield

    def begin(self, progress: Progress) -> None:
        """Report this progress from now on: the model is loaded."""
        self._progress = progress
        self._changed.set()

    def event(self) -> bytes:
        """The current state as an event."""
        if self._progress is not None:
            return self._progress.event()
        seconds = asyncio.get_running_loop().time() - self._started
        return waiting_event(self._resident.phase.current, seconds)

    def unsent(self) -> bytes:
        """The previews that are not sent yet."""
        return self._progress.unsent() if self._progress else b""

    async def change(self) -> None:
        """Wait for the next phase or step; the same phase is reported again every few seconds."""
        if self._progress is not None:
            await self._progress.change()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REPEAT_SECONDS):
                await self._changed.wait()
        self._changed.clear()
