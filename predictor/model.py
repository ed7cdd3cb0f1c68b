"""The KServe model: a call comes in decoded, goes through the engine and leaves encoded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from kserve import Model
from kserve.errors import ModelNotReady

from predictor.engine import Engine
from predictor.errors import DeadlineExceededError, InvalidRequestError, ModelLoadError
from predictor.limits import Limits
from predictor.metadata import model_metadata
from predictor.metrics import ENGINES
from predictor.progress import Progress
from predictor.protocol import Call, EncodedResponse, Picture, encode, parse, settle
from predictor.settings import Settings
from predictor.stream import stream
from predictor.types import GenerationResult, ModelProfile

logger = logging.getLogger(__name__)

# Few: a picture under way takes hundreds of megabytes where ``max_image_pixels`` are sent.
_DECODERS = ThreadPoolExecutor(2, thread_name_prefix="decoder")


class Loaded(NamedTuple):
    """A warm engine and what the protocol must know of its model."""

    engine: Engine
    profile: ModelProfile


def load(settings: Settings) -> Loaded:
    """Load the model folder into an engine; seconds to minutes, so never on the event loop.

    Raises:
        ModelLoadError: it cannot be served under these settings.
    """
    # torch and diffusers take seconds to import: the port opens before that.
    from predictor.engine.composite import CompositeEngine
    from predictor.engine_choice import open_engine
    from predictor.loading.load import load_pipeline
    from predictor.safety.layers import open_layers
    from predictor.safety.review import ReviewedEngine

    pipeline = load_pipeline(settings)
    try:
        Limits(settings, pipeline.profile).check(pipeline.profile.default_request("any"))
    except InvalidRequestError as error:
        raise ModelLoadError(f"the settings forbid the model's own defaults: {error}") from None
    layers = open_layers(settings)
    engine = CompositeEngine(open_engine(pipeline, settings))
    return Loaded(ReviewedEngine(engine, layers), pipeline.profile)


class DiffusionModel(Model):  # type: ignore[misc]  # kserve ships no types
    """One model under KServe's server; loads in the background while the port answers already."""

    def __init__(self, name: str, settings: Settings) -> None:
        super().__init__(name, return_response_headers=True)
        self._settings = settings
        self._loaded: Loaded | None = None
        self.loading: Future[None] | None = None
        # KServe opens its port only for a model that says so; ``healthy`` tells the truth.
        self.ready = True

    def start(self) -> None:
        """Begin to load; called by KServe's server before its event loop runs."""
        loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        self.loading = loader.submit(self._load)
        # The thread must not outlive its work: OpenMP counts its idle pool of threads as busy, and
        # on a CPU the engine's own steps then take twice as long.
        loader.shutdown(wait=False)

    def _load(self) -> None:
        self._loaded = load(self._settings)
        ENGINES.watch(self.name, self._loaded.engine)
        logger.info("model %s is ready", self.name)

    def load(self) -> bool:
        """Whether the model is loaded; KServe calls this where it finds a model not ready."""
        return self._loaded is not None

    async def healthy(self) -> bool:
        """Whether a request would be served."""
        return self._loaded is not None

    def metadata(self) -> dict[str, Any]:
        """What ``GET /v2/models/{name}`` answers.

        Raises:
            ModelNotReady: it is not loaded.
        """
        if self._loaded is None:
            raise ModelNotReady(self.name)
        return model_metadata(self.name, self._loaded.profile, self._settings)

    def stop(self) -> None:
        """Give up what is queued and running."""
        if self._loaded is not None:
            self._loaded.engine.close()

    async def predict(
        self,
        payload: Any,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> bytes | dict[str, Any] | AsyncIterator[bytes]:
        """Answer one ``:predict`` call; ``response_headers`` is filled for KServe to send."""
        assert self._loaded is not None
        limits = Limits(self._settings, self._loaded.profile)
        call = await _decoded(payload, (headers or {}).get("accept"), limits)
        progress = Progress([picture.request for picture in call.pictures], call.as_events)
        if call.as_events:
            return await stream(self._answer(call, progress), progress)
        response = await self._answer(call, progress)
        if response_headers is not None:
            response_headers.update(response.headers)
        return response.body

    async def _answer(self, call: Call, progress: Progress) -> EncodedResponse:
        assert self._loaded is not None
        results = await self._make_in_time(self._loaded.engine, call.pictures, progress)
        return await asyncio.to_thread(
            encode,
            call,
            results,
            model_name=self.name,
            revision=self._loaded.profile.revision,
            embed_metadata=self._settings.embed_metadata,
        )

    async def _make_in_time(
        self, engine: Engine, pictures: Sequence[Picture], progress: Progress
    ) -> list[GenerationResult]:
        seconds = self._settings.request_timeout_seconds
        try:
            async with asyncio.timeout(seconds or None):
                return await _submit_all(engine, pictures, progress)
        except TimeoutError:
            raise DeadlineExceededError(f"not done within {seconds:g} s: {progress}") from None


async def _decoded(payload: Any, accept: str | None, limits: Limits) -> Call:
    """The call that a body asks for; pictures are decoded off the event loop, so that probes are
    answered meanwhile.
    """
    asked = parse(payload, accept, limits)
    if not asked.has_images:
        return settle(asked, limits)
    return await asyncio.get_running_loop().run_in_executor(_DECODERS, settle, asked, limits)


async def _submit_all(
    engine: Engine, pictures: Sequence[Picture], progress: Progress
) -> list[GenerationResult]:
    """Make all pictures of a call; the first failure, or a caller who left, drops the others."""
    tasks = [
        asyncio.create_task(engine.submit(picture.request, progress.listener(index)))
        for index, picture in enumerate(pictures)
    ]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
