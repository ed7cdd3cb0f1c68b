"""The KServe model: decodes a call, runs it through the engine and encodes the response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import orjson
from kserve import Model
from kserve.errors import ModelNotReady

from predictor.access.spending import charge_pictures
from predictor.edge.observer import CallObserver
from predictor.edge.progress import Progress
from predictor.edge.stream import stream
from predictor.engine import Admission, Engine, StepListener
from predictor.errors import DeadlineExceededError
from predictor.intake.pool import READERS
from predictor.loading.loader import Loaded
from predictor.protocol import (
    Call,
    EncodedResponse,
    Picture,
    ResponseEncoder,
    decode_call,
    is_light,
    parse,
)
from predictor.protocol.model_metadata import model_metadata
from predictor.requests import GenerationRequest, GenerationResult, Limits, PictureSource
from predictor.residency import Residency
from predictor.settings import Settings

# A light body of this length is read within 10 ms.
_SMALL_BYTES = 16_384
# Few, so that files do not take the CPU from the engine. Their number is bounded by the pictures
# that the engine has admitted.
_ENCODERS = ThreadPoolExecutor(2, thread_name_prefix="encoder")


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
    ) -> bytes | dict[str, Any] | AsyncIterator[bytes]:
        """Answer one ``:predict`` call.

        ``payload`` is the body as bytes, or as JSON that KServe has parsed. KServe sends the
        headers added to ``response_headers``.
        """
        async with self._residency.use(self.name) as loaded:
            limits = Limits(self._settings, loaded.profile)
            accept = (headers or {}).get("accept")
            with self._observer.stage("parse"):
                call = await _decoded(payload, accept, limits, loaded.engine.admission)
            self._observer.begin(call)
            await _charge(call)
            progress = Progress([picture.request for picture in call.pictures], call.as_events)
            answer = self._answer(loaded, call, progress)
            if call.as_events:
                return await stream(answer, progress)
            response = await answer
        if response_headers is not None:
            response_headers.update(response.headers)
        if isinstance(payload, dict) and call.as_json:
            # KServe puts the answer into an event.
            return cast("dict[str, Any]", orjson.loads(response.body))
        return response.body

    async def _answer(self, loaded: Loaded, call: Call, progress: Progress) -> EncodedResponse:
        # A stream continues after ``predict`` returns.
        requests = [picture.request for picture in call.pictures]
        places = loaded.engine.admission.reserve(requests, call.timeout)
        with self._residency.keep(self.name), places:
            # The engine that `loading/loader.py` builds, which also applies the safety layers.
            results = await self._generate_in_time(loaded.engine, call, progress)
            encoder = ResponseEncoder(
                call,
                results,
                model_name=self.name,
                revision=loaded.profile.revision,
                embed_metadata=self._settings.embed_metadata,
            )
            with self._observer.stage("encode"):
                return await _encoded(encoder)

    async def _generate_in_time(
        self, engine: Engine, call: Call, progress: Progress
    ) -> list[GenerationResult]:
        timeouts = (call.timeout, self._settings.request_timeout_seconds)
        seconds = min((one for one in timeouts if one), default=None)
        try:
            async with asyncio.timeout(seconds):
                submit = partial(self._observer.generate, engine)
                return await _submit_all(submit, call.pictures, progress)
        except TimeoutError:
            raise DeadlineExceededError(f"not done within {seconds:g} s: {progress}") from None


async def _decoded(payload: Any, accept: str | None, limits: Limits, admission: Admission) -> Call:
    """Decode a body; a large one or one with pictures in a reader process.

    A call that has no place now is refused before its pictures are decoded.
    """
    is_small = not isinstance(payload, bytes) or (
        len(payload) <= _SMALL_BYTES and is_light(payload)
    )
    if is_small:
        body = parse(payload, accept, limits)
        if not body.has_images:
            return decode_call(body, limits)

    admission.check()

    def decode(document: Any, images: PictureSource) -> Call:
        return decode_call(parse(document, accept, limits), limits, images)

    return await READERS.read(payload, decode, limits.settings.max_image_pixels)


async def _encoded(encoder: ResponseEncoder) -> EncodedResponse:
    """Encode picture by picture, so that calls take turns and one that is cancelled stops."""
    loop = asyncio.get_running_loop()
    for index in range(encoder.pictures):
        await loop.run_in_executor(_ENCODERS, encoder.add, index)
    return await loop.run_in_executor(_ENCODERS, encoder.response)


async def _charge(call: Call) -> None:
    pixels = [picture.request.width * picture.request.height for picture in call.pictures]
    await charge_pictures(len(pixels), sum(pixels))


async def _submit_all(
    submit: Callable[[GenerationRequest, StepListener], Coroutine[Any, Any, GenerationResult]],
    pictures: Sequence[Picture],
    progress: Progress,
) -> list[GenerationResult]:
    """Generate all pictures of a call; a failure or a disconnect cancels the others."""
    tasks = [
        asyncio.create_task(submit(picture.request, progress.listener(index)))
        for index, picture in enumerate(pictures)
    ]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
