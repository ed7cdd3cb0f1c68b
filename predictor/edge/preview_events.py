"""The previews of a call: encoded off the event loop, and kept until the stream sends them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from predictor.requests import Preview

logger = logging.getLogger(__name__)

# Encodes a preview of the picture with this index.
EncodePreview: TypeAlias = Callable[[int, Preview], Awaitable[bytes]]


class PreviewEvents:
    """One at a time is encoded, and the latest of each picture is kept.

    The memory that a slow reader or a slow encoder takes is therefore bounded. Used on the event
    loop. ``on_event`` is called when there is something to take.
    """

    def __init__(self, encode: EncodePreview, on_event: Callable[[], None]) -> None:
        self._encode = encode
        self._on_event = on_event
        self._waiting: dict[int, Preview] = {}
        self._events: dict[int, bytes] = {}
        self._encoding: asyncio.Task[None] | None = None

    def add(self, index: int, preview: Preview) -> None:
        """Encode a preview of the picture with this index, in place of one that waits."""
        self._waiting[index] = preview
        if self._encoding is None or self._encoding.done():
            self._encoding = asyncio.create_task(self._encode_all())

    def take(self) -> bytes:
        """The events that are not sent yet."""
        events = b"".join(self._events.values())
        self._events.clear()
        return events

    async def settle(self) -> None:
        """Wait until all are encoded."""
        if self._encoding is not None:
            await self._encoding

    async def _encode_all(self) -> None:
        while self._waiting:
            index = next(iter(self._waiting))
            preview = self._waiting.pop(index)
            try:
                event = await self._encode(index, preview)
            except Exception as error:  # the picture itself may still succeed
                logger.warning("a preview is dropped: %s", error)
                continue
            self._events.pop(index, None)
            self._events[index] = event
            self._on_event()
