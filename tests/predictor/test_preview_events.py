"""What a stream keeps of the previews of a call."""

from __future__ import annotations

import asyncio

from PIL import Image

from predictor.edge.preview_events import PreviewEvents
from predictor.edge.progress import Progress
from predictor.edge.stream import stream
from predictor.protocol import EncodedResponse
from predictor.requests import GenerationRequest, Preview

PICTURE = Image.new("RGB", (8, 8))
REQUEST = GenerationRequest("a star", "", 1, 64, 64, 4, 1.0, "unipc")


def preview(index: int) -> Preview:
    return Preview(PICTURE, index, index + 1, 8)


async def encode(picture: int, one: Preview) -> bytes:
    if one.index == 7:
        raise OSError("cannot encode")
    return b"%d.%d " % (picture, one.index)


def test_a_slow_reader_gets_the_latest_preview_of_each_picture() -> None:
    async def story() -> bytes:
        events = PreviewEvents(encode, lambda: None)
        for index in range(5):
            events.add(0, preview(index))
            await events.settle()
        events.add(1, preview(2))
        await events.settle()
        assert events.take() == b"0.4 1.2 "
        return events.take()

    assert asyncio.run(story()) == b""


def test_a_slow_encoder_skips_previews() -> None:
    encoded: list[int] = []

    async def story() -> None:
        started, continued = asyncio.Event(), asyncio.Event()

        async def slow(picture: int, one: Preview) -> bytes:
            encoded.append(one.index)
            started.set()
            await continued.wait()
            return b""

        events = PreviewEvents(slow, lambda: None)
        events.add(0, preview(0))
        await started.wait()
        for index in (1, 2, 3):
            events.add(0, preview(index))
        continued.set()
        await events.settle()

    asyncio.run(story())
    assert encoded == [0, 3]


def test_a_preview_that_cannot_be_encoded_is_dropped() -> None:
    async def story() -> bytes:
        events = PreviewEvents(encode, lambda: None)
        events.add(0, preview(7))
        await events.settle()
        events.add(1, preview(0))
        await events.settle()
        return events.take()

    assert asyncio.run(story()) == b"1.0 "


def test_a_preview_from_a_thread_precedes_the_response() -> None:
    async def story() -> list[bytes]:
        progress = Progress([REQUEST], True, encode_preview=encode)
        listener = progress.previews(0, 3)
        assert listener is not None
        assert progress.previews(0, 0) is None
        began = asyncio.Event()

        async def answer() -> EncodedResponse:
            await began.wait()
            await asyncio.to_thread(listener.on_preview, preview(1))
            await progress.settle()
            return EncodedResponse(b"result", {})

        events = await stream(answer(), progress)
        began.set()
        return [event async for event in events]

    sent = b"".join(asyncio.run(story()))
    assert sent.count(b"0.1 ") == 1
    assert sent.index(b"0.1 ") < sent.index(b"result")
