"""Every picture is reviewed on its way out of the engine: there is no other way out."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import torch
from PIL import Image

from predictor.engine import Engine, EngineState, StepListener
from predictor.errors import GenerationFailedError
from predictor.requests import GenerationRequest, GenerationResult, SafetyVerdict
from predictor.safety.layers import Layers, SafetyLayer, strictest

logger = logging.getLogger(__name__)

Subject = TypeVar("Subject")

# All that is left of a picture is the mean colour of so many fields along its longer side.
_FIELDS = 8


class ReviewedEngine:
    """An ``Engine`` that shows what the safety layers let pass, as they let it pass."""

    def __init__(self, engine: Engine, layers: Layers) -> None:
        self._engine = engine
        self._layers = layers
        # From 0 on, as a series that begins at 1 shows Prometheus no increase.
        self._counts = Counter(dict.fromkeys(_series(layers.prompts + layers.pictures), 0))
        self._counting = threading.Lock()
        # One thread, for the reason that the engine's finishers have one each.
        self._reviewer = ThreadPoolExecutor(1, "reviewer", initializer=_begin_thread)

    @property
    def state(self) -> EngineState:
        """See ``Engine.state``."""
        return self._engine.state._replace(safety=dict(self._counts))

    async def submit(
        self, request: GenerationRequest, on_step: StepListener | None = None
    ) -> GenerationResult:
        """Make one picture, unless its prompt is blocked, and review it; see ``Engine.submit``."""
        verdicts = await self._look_at_prompt(request.prompt)
        if strictest(verdicts) == "block":
            return GenerationResult(request, None, seconds=0.0, safety=verdicts)
        result = await self._engine.submit(request, on_step)
        if not self._layers.pictures and not verdicts:
            return result
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reviewer, self._reviewed, result, verdicts)

    def close(self) -> None:
        """See ``Engine.close``."""
        self._engine.close()
        self._reviewer.shutdown(cancel_futures=True)

    async def _look_at_prompt(self, prompt: str) -> tuple[SafetyVerdict, ...]:
        """On another thread: it may read a file."""
        if not self._layers.prompts:
            return ()
        return await asyncio.to_thread(self._verdicts, self._layers.prompts, prompt)

    def _reviewed(
        self, result: GenerationResult, verdicts: tuple[SafetyVerdict, ...]
    ) -> GenerationResult:
        """The result with what may be shown of its picture, and which layers fired."""
        picture = result.image
        assert picture is not None
        verdicts += self._verdicts(self._layers.pictures, picture)
        match strictest(verdicts):
            case "block":
                return replace(result, image=None, safety=verdicts)
            case "blur":
                return replace(result, image=blurred(picture), safety=verdicts)
        return replace(result, safety=verdicts)

    def _verdicts(
        self, layers: Sequence[SafetyLayer[Subject]], subject: Subject
    ) -> tuple[SafetyVerdict, ...]:
        """Of all layers, so that the answer names each that fired."""
        return tuple(
            SafetyVerdict(layer.name, layer.action)
            for layer in layers
            if self._fires(layer, subject)
        )

    def _fires(self, layer: SafetyLayer[Subject], subject: Subject) -> bool:
        try:
            fires = layer.fires_at(subject)
        except Exception as error:
            logger.exception("%s could not judge", layer.name)
            self._count(layer, "error")
            raise GenerationFailedError(
                f"{layer.name} could not judge, so nothing is shown; the server's log has the cause"
            ) from error
        self._count(layer, layer.action if fires else "pass")
        return fires

    def _count(self, layer: SafetyLayer[Subject], action: str) -> None:
        with self._counting:
            self._counts[layer.name, action] += 1


def _series(layers: Iterable[SafetyLayer[Any]]) -> list[tuple[str, str]]:
    return [(one.name, action) for one in layers for action in ("pass", one.action, "error")]


def _begin_thread() -> None:
    """One thread of the CPU; on a GPU a stream of its own, which waits for none of the engine's."""
    torch.set_num_threads(1)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.set_stream(torch.cuda.Stream())  # type: ignore[no-untyped-call]


def blurred(picture: Image.Image) -> Image.Image:
    """The picture at its size, made again from a few mean colours alone.

    A filter of Gauss can be undone in part; averages cannot.
    """
    longer = max(picture.size)
    fields = tuple(max(1, round(side * _FIELDS / longer)) for side in picture.size)
    means = picture.resize((fields[0], fields[1]), Image.Resampling.BOX)
    return means.resize(picture.size, Image.Resampling.BICUBIC)
