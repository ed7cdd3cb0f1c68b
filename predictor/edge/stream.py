"""A response as a stream of events: the wait, the progress, then the result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from http import HTTPStatus
from typing import Any, Protocol, Self

from predictor.edge.error_responses import error_event_data, note_error, status_of
from predictor.errors import PredictorError
from predictor.protocol import EncodedResponse
from predictor.protocol.encode import error_event

# Long enough for a full queue to reject the call, so that the caller gets an error status.
_REFUSAL_SECONDS = 0.05


class Report(Protocol):
    """What a stream reports until the response is complete."""

    def event(self) -> bytes:
        """The current state as an event."""

    def unsent(self) -> bytes:
        """Events that must precede the response; empty if there are none."""

    async def change(self) -> None:
        """Wait until there is something new to report."""


class LastEvent(bytes):
    """The end of a stream, with its status; the headers have already said 200.

    The event of an error, or nothing after that of a result, which is too large to copy.
    """

    status: HTTPStatus

    def __new__(cls, event: bytes, status: HTTPStatus) -> Self:
        """Attach the status to the bytes."""
        made = super().__new__(cls, event)
        made.status = status
        return made


async def stream(
    answer: Coroutine[Any, Any, EncodedResponse], report: Report
) -> AsyncIterator[bytes]:
    """The events of ``answer``, which must have a JSON body. Closing the stream cancels it.

    Raises:
        PredictorError: the call is rejected at once.
    """
    answering = asyncio.create_task(answer)
    try:
        await asyncio.wait([answering], timeout=_REFUSAL_SECONDS)
    except asyncio.CancelledError:
        answering.cancel()
        raise
    if answering.done():
        answering.result()
    return _events(answering, report)


async def _events(answering: asyncio.Task[EncodedResponse], report: Report) -> AsyncIterator[bytes]:
    changing = asyncio.create_task(report.change())
    try:
        while not answering.done():
            yield report.event()
            await asyncio.wait([answering, changing], return_when=asyncio.FIRST_COMPLETED)
            if changing.done():
                changing = asyncio.create_task(report.change())
        try:
            response = answering.result()
            if unsent := report.unsent():
                yield unsent
            yield response.body
            yield LastEvent(b"", HTTPStatus.OK)
        except PredictorError as error:
            note_error(error)
            yield LastEvent(error_event(error_event_data(error)), status_of(error))
    finally:
        changing.cancel()
        answering.cancel()
