"""An engine that reviews every picture before it returns it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from PIL import Image

from predictor.engine import Admission, Engine, EngineState, Previews, StepListener
from predictor.engine.cpu_threads import use_cpu_threads
from predictor.errors import GenerationFailedError
from predictor.library_exit import contained
from predictor.requests import GenerationRequest, GenerationResult, SafetyVerdict
from predictor.requests.prompt_syntax import text_of
from predictor.safety.layers import Layers, SafetyLayer, strictest
from predictor.stages import StageTime

logger = logging.getLogger(__name__)

Subject = TypeVar("Subject")

# The number of blocks along the longer side of a blurred picture, each with one mean colour.
_BLOCKS = 8


class ReviewedEngine:
    """An ``Engine`` that blocks or blurs pictures as the safety layers require."""

    def __init__(self, engine: Engine, layers: Layers) -> None:
        self._engine = engine
        self._layers = layers
        # Start at 0: Prometheus does not see an increase in a series that starts at 1.
        self._counts = Counter(dict.fromkeys(_series(layers.prompts + layers.pictures), 0))
        self._counting = threading.Lock()
        # A single thread, as for each of the engine's finishers.
        self._reviewer = ThreadPoolExecutor(1, "reviewer", initializer=_begin_thread)

    @property
    def state(self) -> EngineState:
        """See ``Engine.state``."""
        return self._engine.state._replace(safety=dict(self._counts))

    @property
    def admission(self) -> Admission:
        """See ``Engine.admission``."""
        return self._engine.admission

    async def submit(
        self,
        request: GenerationRequest,
        on_step: StepListener | None = None,
        previews: Previews | None = None,
    ) -> GenerationResult:
        """Make and review one picture, unless its prompt is blocked; see ``Engine.submit``.

        A preview would show what a layer is about to block, and the layers are made for finished
        pictures: there are none if a layer reviews pictures, or one has fired at the prompt.
        """
        verdicts = await self._review_prompt(request)
        if strictest(verdicts) == "block":
            return GenerationResult(request, None, seconds=0.0, safety=verdicts)
        is_reviewed = bool(self._layers.pictures or verdicts)
        shown = None if is_reviewed else previews
        result = await self._engine.submit(request, on_step, shown)
        if not is_reviewed:
            return result
        loop = asyncio.get_running_loop()
        review = partial(copy_context().run, self._reviewed, result, verdicts)
        return await loop.run_in_executor(self._reviewer, review)

    def close(self) -> None:
        """See ``Engine.close``."""
        self._engine.close()
        self._reviewer.shutdown(wait=False, cancel_futures=True)

    async def _review_prompt(self, request: GenerationRequest) -> tuple[SafetyVerdict, ...]:
        """Run the prompt layers on another thread, because they may read files."""
        if not self._layers.prompts:
            return ()
        texts = [request.prompt]
        if request.is_weighted:
            # Brackets may split a word, which the text encoders read as one.
            texts.append(text_of(request.prompt))
        return await asyncio.to_thread(self._verdicts, self._layers.prompts, *texts)

    @contained("reviewing the picture")
    def _reviewed(
        self, result: GenerationResult, verdicts: tuple[SafetyVerdict, ...]
    ) -> GenerationResult:
        """Return the result with its picture passed, blurred or removed, and the verdicts."""
        started = time.perf_counter()
        picture = result.image
        assert picture is not None
        verdicts += self._verdicts(self._layers.pictures, picture)
        result = replace(result, stages=(*result.stages, StageTime.since("review", started)))
        match strictest(verdicts):
            case "block":
                return replace(result, image=None, safety=verdicts)
            case "blur":
                return replace(result, image=blurred(picture), safety=verdicts)
        return replace(result, safety=verdicts)

    def _verdicts(
        self, layers: Sequence[SafetyLayer[Subject]], *subjects: Subject
    ) -> tuple[SafetyVerdict, ...]:
        """Run all layers, so that the response names each one that fired."""
        return tuple(
            SafetyVerdict(layer.name, layer.action)
            for layer in layers
            if self._fires(layer, subjects)
        )

    def _fires(self, layer: SafetyLayer[Subject], subjects: Iterable[Subject]) -> bool:
        try:
            fires = any(map(layer.fires_at, subjects))
        except BaseException as error:
            logger.exception("%s failed", layer.name)
            self._count(layer, "error")
            raise GenerationFailedError(
                f"{layer.name} failed, so no picture is shown; the server's log has the cause"
            ) from error
        self._count(layer, layer.action if fires else "pass")
        return fires

    def _count(self, layer: SafetyLayer[Subject], action: str) -> None:
        with self._counting:
            self._counts[layer.name, action] += 1


def _series(layers: Iterable[SafetyLayer[Any]]) -> list[tuple[str, str]]:
    return [(one.name, action) for one in layers for action in ("pass", one.action, "error")]


def _begin_thread() -> None:
    """Use one CPU thread and, on a GPU, a separate stream that does not wait for the engine's."""
    use_cpu_threads(1)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.set_stream(torch.cuda.Stream())  # type: ignore[no-untyped-call]


def blurred(picture: Image.Image) -> Image.Image:
    """Return a picture of the same size, interpolated from the mean colours of a few blocks.

    A Gaussian blur can be partly undone, averages cannot.
    """
    longer = max(picture.size)
    blocks = tuple(max(1, round(side * _BLOCKS / longer)) for side in picture.size)
    means = picture.resize((blocks[0], blocks[1]), Image.Resampling.BOX)
    return means.resize(picture.size, Image.Resampling.BICUBIC)
