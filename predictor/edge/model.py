"""The KServe model: decodes a call, runs it through the engine and encodes the response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kserve import Model
from kserve.errors import ModelNotReady

from predictor.access.spending import charge_pictures
from predictor.edge.progress import Progress
from predictor.edge.stream import stream
from predictor.engine import Engine
from predictor.errors import DeadlineExceededError
from predictor.loading.loader import Loaded
from predictor.protocol import Call, EncodedResponse, Picture, decode_call, encode, parse
from predictor.protocol.model_metadata import model_metadata
from predictor.requests import GenerationResult, Limits
from predictor.residency import Residency
from predictor.settings import Settings

# Few, because decoding a picture of ``max_image_pixels`` takes hundreds of megabytes.
_DECODERS = ThreadPoolExecutor(2, thread_name_prefix="decoder")


class DiffusionModel(Model):  # type: ignore[misc]  # kserve ships no types
    """One model of KServe's server, loaded or not."""

    def __init__(self, name: str, settings: Settings, residency: Residency) -> None:
        super().__init__(name, return_response_headers=True)
        self._settings = settings
        self._residency = residency
        # KServe opens its port only if a model claims to be ready; ``healthy`` is accurate.
        self.ready = True

    def load(self) -> bool:
        """Whether the model is loaded; KServe calls this if a model is not ready."""
        return self._residency[self.name].is_open

    async def healthy(self) -> bool:
        """Whether the model is loaded and serves requests."""
        return self._residency[self.name].is_open

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
            call = await _decoded(payload, (headers or {}).get("accept"), limits)
            await _charge(call)
            progress = Progress([picture.request for picture in call.pictures], call.as_events)
            answer = self._answer(loaded, call, progress)
            if call.as_events:
                return await stream(answer, progress)
            response = await answer
        if response_headers is not None:
            response_headers.update(response.headers)
        return response.body

    async def _answer(self, loaded: Loaded, call: Call, progress: Progress) -> EncodedResponse:
        # A stream continues after ``predict`` returns.
        with self._residency.keep(self.name):
            # The engine that `loading/loader.py` builds, which also applies the safety layers.
            results = await self._generate_in_time(loaded.engine, call.pictures, progress)
            return await asyncio.to_thread(
                encode,
                call,
                results,
                model_name=self.name,
                revision=loaded.profile.revision,
                embed_metadata=self._settings.embed_metadata,
            )

    async def _generate_in_time(
        self, engine: Engine, pictures: Sequence[Picture], progress: Progress
    ) -> list[GenerationResult]:
        seconds = self._settings.request_timeout_seconds
        try:
            async with asyncio.timeout(seconds or None):
                return await _submit_all(engine, pictures, progress)
        except TimeoutError:
            raise DeadlineExceededError(f"not done within {seconds:g} s: {progress}") from None


async def _decoded(payload: Any, accept: str | None, limits: Limits) -> Call:
    """Decode a body; pictures are decoded in another thread, so that probes get a response."""
    body = parse(payload, accept, limits)
    if not body.has_images:
        return decode_call(body, limits)
    return await asyncio.get_running_loop().run_in_executor(_DECODERS, decode_call, body, limits)


async def _charge(call: Call) -> None:
    pixels = [picture.request.width * picture.request.height for picture in call.pictures]
    await charge_pictures(len(pixels), sum(pixels))


async def _submit_all(
    engine: Engine, pictures: Sequence[Picture], progress: Progress
) -> list[GenerationResult]:
    """Generate all pictures of a call; a failure or a disconnect cancels the others."""
    tasks = [
        asyncio.create_task(engine.submit(picture.request, progress.listener(index)))
        for index, picture in enumerate(pictures)
    ]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
