"""An answer under way as a stream of events: its steps, then itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from http import HTTPStatus
from typing import Any

from predictor.edge.error_responses import status_of
from predictor.edge.middleware import CALLER_LEFT, note_outcome
from predictor.edge.progress import Progress
from predictor.errors import PredictorError
from predictor.protocol import EncodedResponse
from predictor.protocol.encode import error_event, progress_event, result_event

# A full queue refuses at once: long enough for the caller to get that as a status.
_REFUSAL_SECONDS = 0.05


async def stream(
    answer: Coroutine[Any, Any, EncodedResponse], progress: Progress
) -> AsyncIterator[bytes]:
    """The events of ``answer``, which must have a JSON body; whoever stops to read cancels it.

    Raises:
        PredictorError: it was refused at once.
    """
    answering = asyncio.create_task(answer)
    try:
        await asyncio.wait([answering], timeout=_REFUSAL_SECONDS)
    except asyncio.CancelledError:
        answering.cancel()
        raise
    if answering.done():
        answering.result()
    return _events(answering, progress)


async def _events(
    answering: asyncio.Task[EncodedResponse], progress: Progress
) -> AsyncIterator[bytes]:
    # Until the last event, whatever ends this is a reader who has gone.
    note_outcome(CALLER_LEFT)
    changing = asyncio.create_task(progress.change())
    try:
        while not answering.done():
            yield progress_event(progress.step, progress.steps)
            await asyncio.wait([answering, changing], return_when=asyncio.FIRST_COMPLETED)
            if changing.done():
                changing = asyncio.create_task(progress.change())
        yield _last_event(answering)
    finally:
        changing.cancel()
        answering.cancel()


def _last_event(answered: asyncio.Task[EncodedResponse]) -> bytes:
    try:
        body = answered.result().body
    except PredictorError as error:
        note_outcome(status_of(error))
        return error_event(str(error))
    assert isinstance(body, dict)
    note_outcome(HTTPStatus.OK)
    return result_event(body)
