"""The KServe model: decodes a call, runs it through the engine and encodes the response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from kserve import Model
from kserve.errors import ModelNotReady

from predictor.access.spending import charge_pictures, keep_request
from predictor.edge.deadline import READING, within
from predictor.edge.load_wait import WaitReport, timeout_of
from predictor.edge.observer import CallObserver
from predictor.edge.progress import Progress
from predictor.edge.stream import stream
from predictor.engine import Admission, Engine, Previews, StepListener
from predictor.intake.pool import READERS
from predictor.library_exit import contained
from predictor.loading.loader import Loaded
from predictor.protocol import (
    Call,
    EncodedResponse,
    Encoder,
    Picture,
    ResponseEncoder,
    accepts_events,
)
from predictor.protocol.encode import preview_event, progress_event
from predictor.protocol.model_metadata import model_metadata
from predictor.request_context import current_request
from predictor.requests import (
    GenerationRequest,
    GenerationResult,
    Limits,
    PictureSource,
    Preview,
)
from predictor.residency import Residency
from predictor.settings import Settings
from predictor.wire_formats import PREDICT, Message, Predict

# Few, so that files do not take the CPU from the engine. Their number is bounded by the pictures
# that the engine has admitted.
_ENCODERS = ThreadPoolExecutor(2, thread_name_prefix="encoder")
_encoding = contained("encoding the picture")


class DiffusionModel(Model):  # type: ignore[misc]  # kserve ships no types
    """One model of KServe's server, loaded or not."""

    def __init__(self, name: str, settings: Settings, residency: Residency) -> None:
        super().__init__(name, return_response_headers=True)
        # KServe sets this only for the models that it knows at the start.
        self.enable_latency_logging = True
        self._settings = settings
        self._residency = residency
        self._observer = CallObserver(name, log_prompts=settings.log_prompts)
        # KServe opens its port only if a model claims to be ready; ``healthy`` is accurate.
        self.ready = True

    def load(self) -> bool:
        """Whether the model is loaded; KServe calls this if a model is not ready."""
        return self._residency[self.name].is_open

    async def healthy(self) -> bool:
        """Whether the model is loaded and serves requests."""
        resident = self._residency[self.name]
        return resident.is_open and not resident.engine_failure

    def metadata(self) -> dict[str, Any]:
        """The response to ``GET /v2/models/{name}``.

        Raises:
            ModelNotReady: the model is not loaded.
        """
        loaded = self._residency[self.name].loaded
        if loaded is None:
            raise ModelNotReady(self.name)
        return model_metadata(self.name, loaded.profile, self._settings)

    async def predict(
        self,
        payload: Any,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> bytes | AsyncIterator[bytes] | EncodedResponse:
        """Answer one call.

        ``payload`` is the body of ``:predict``; or the ``Message`` of another wire format, whose
        response is an ``EncodedResponse`` or a stream. KServe sends the headers added to
        ``response_headers``.
        """
        is_message = isinstance(payload, Message)
        message = payload if is_message else Message(PREDICT, payload, headers or {})
        started = message.arrived or asyncio.get_running_loop().time()
        resident = self._residency[self.name]
        has_streams = isinstance(message.wire_format, Predict) and accepts_events(message.accept)
        waits_as_stream = has_streams and not resident.is_open
        # Before a stream begins, so that an invalid request gets an error status.
        seconds = await self._seconds_to_wait(message, started)
        if waits_as_stream:
            report = WaitReport(resident)
            return await stream(self._answer_after_load(message, report, started, seconds), report)
        async with self._in_use(started, seconds) as loaded:
            call = await self._read_in_time(message, loaded, started)
            if call.known is not None:
                return call.known
            progress = await self._begin(call)
            answer = self._answer(loaded, call, progress, started)
            if call.as_events:
                return await stream(answer, progress)
            response = await answer
        if is_message:
            return response
        if response_headers is not None:
            response_headers.update(response.headers)
        return response.body

    async def _answer_after_load(
        self, message: Message, report: WaitReport, started: float, seconds: float | None
    ) -> EncodedResponse:
        with report.watching():
            async with self._in_use(started, seconds) as loaded:
                call = await self._read_in_time(message, loaded, started)
                progress = await self._begin(call)
                report.begin(progress)
                return await self._answer(loaded, call, progress, started)

    @asynccontextmanager
    async def _in_use(self, started: float, seconds: float | None) -> AsyncIterator[Loaded]:
        """The loaded model; ``seconds`` bounds the wait for it.

        Raises:
            DeadlineExceededError: the model is still loading after ``seconds``.
        """
        async with AsyncExitStack() as stack:
            async with within(started, seconds, "the model is still loading"):
                loaded = await stack.enter_async_context(self._residency.use(self.name))
            yield loaded

    async def _seconds_to_wait(self, message: Message, started: float) -> float | None:
        """How long a call may wait for its model; None if it is loaded. See ``timeout_of``."""
        if self._residency[self.name].is_open:
            return None
        async with within(started, self._shortest(None), READING):
            return self._shortest(await timeout_of(message, self._settings))

    def _shortest(self, timeout: float | None) -> float | None:
        """The timeout of the call or that of the server, whichever is shorter; None without."""
        timeouts = (timeout, self._settings.request_timeout_seconds)
        return min((one for one in timeouts if one and one > 0), default=None)

    async def _begin(self, call: Call) -> Progress:
        self._observer.begin(call)
        await _charge(call)
        event = call.form.progress_event if call.form else progress_event
        requests = [picture.request for picture in call.pictures]
        encode = partial(_encoded_preview, call)
        progress = Progress(requests, call.as_events, event, encode)
        current_request().progress = progress
        return progress

    async def _read_in_time(self, message: Message, loaded: Loaded, started: float) -> Call:
        limits = Limits(self._settings, loaded.profile)
        with self._observer.stage("parse"):
            async with within(started, self._shortest(None), READING):
                return await _decoded(message, limits, loaded.engine.admission)

    async def _answer(
        self, loaded: Loaded, call: Call, progress: Progress, started: float
    ) -> EncodedResponse:
        # A stream continues after ``predict`` returns.
        requests = [picture.request for picture in call.pictures]
        places = loaded.engine.admission.reserve(requests, call.timeout)
        with self._residency.keep(self.name), places:
            # The engine that `loading/loader.py` builds, which also applies the safety layers.
            results = await self._generate_in_time(loaded.engine, call, progress, started)
            encoder: Encoder = (call.form.encoder if call.form else ResponseEncoder)(
                call,
                results,
                model_name=self.name,
                revision=loaded.profile.revision,
                embed_metadata=self._settings.embed_metadata,
            )
            with self._observer.stage("encode"):
                return await _encoded(encoder)

    async def _generate_in_time(
        self, engine: Engine, call: Call, progress: Progress, started: float
    ) -> list[GenerationResult]:
        async with within(started, self._shortest(call.timeout), progress):
            submit = partial(self._observer.generate, engine)
            results = await _submit_all(submit, call.pictures, progress)
            await progress.settle()
            return results


async def _decoded(message: Message, limits: Limits, admission: Admission) -> Call:
    """Decode a body; a large one or one with pictures in a reader process.

    A call that has no place now is refused before its pictures are decoded.
    """
    wire_format = message.wire_format
    if message.is_small:
        body = message.parse(message.document(), limits)
        if not body.has_images:
            return wire_format.decode(body, limits)

    admission.check()

    def decode(document: Any, images: PictureSource) -> Call:
        return wire_format.decode(message.parse(document, limits), limits, images)

    call = await READERS.read(message, decode, limits.settings.max_image_pixels)
    keep_request()
    return call


async def _encoded(encoder: Encoder) -> EncodedResponse:
    """Encode picture by picture, so that calls take turns and one that is cancelled stops."""
    loop = asyncio.get_running_loop()
    for index in range(encoder.pictures):
        await loop.run_in_executor(_ENCODERS, _encoding(encoder.add), index)
    return await loop.run_in_executor(_ENCODERS, _encoding(encoder.response))


async def _encoded_preview(call: Call, index: int, preview: Preview) -> bytes:
    """The event of a preview of the picture with this index."""
    encode = partial(call.form.preview_event, call) if call.form else preview_event
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_ENCODERS, _encoding(encode), index, preview)


async def _charge(call: Call) -> None:
    pixels = [picture.request.width * picture.request.height for picture in call.pictures]
    await charge_pictures(len(pixels), sum(pixels))


async def _submit_all(
    submit: Callable[
        [GenerationRequest, StepListener, Previews | None], Coroutine[Any, Any, GenerationResult]
    ],
    pictures: Sequence[Picture],
    progress: Progress,
) -> list[GenerationResult]:
    """Generate all pictures of a call; a failure or a disconnect cancels the others."""
    tasks = [
        asyncio.create_task(
            submit(
                picture.request,
                progress.listener(index),
                progress.previews(index, picture.previews),
            )
        )
        for index, picture in enumerate(pictures)
    ]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
