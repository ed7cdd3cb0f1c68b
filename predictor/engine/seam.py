"""The two seams of the engine: what it offers the server, and what it needs of a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from predictor.types import GenerationRequest, GenerationResult, ModelProfile


class GenerationCancelledError(Exception):
    """Nobody waits for the picture any more; never seen outside the engine."""


class Engine(Protocol):
    """Makes pictures for many callers at once."""

    async def submit(self, request: GenerationRequest) -> GenerationResult:
        """Make one picture; cancelling the await drops it from the queue or stops it at a step.

        Raises:
            OverloadedError: too many pictures are waiting.
            GenerationFailedError: this picture could not be made; others are not touched.
        """

    def close(self) -> None:
        """Drop what waits, stop what runs, free the pipeline's thread."""


class Pipeline(Protocol):
    """One loaded model on one device; called from a single thread."""

    @property
    def profile(self) -> ModelProfile:
        """What the protocol must know of the model."""

    def generate(
        self, request: GenerationRequest, is_cancelled: Callable[[], bool]
    ) -> GenerationResult:
        """Make one picture, asking ``is_cancelled`` at every denoising step.

        Raises:
            GenerationCancelledError: once ``is_cancelled`` has said so.
        """
