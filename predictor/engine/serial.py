"""The engine for pipelines that the step loop does not know: one picture after another."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from predictor.engine.seam import GenerationCancelledError, Pipeline
from predictor.errors import GenerationFailedError, OverloadedError
from predictor.types import GenerationRequest, GenerationResult

logger = logging.getLogger(__name__)


class SerialEngine:
    """An ``Engine`` over one pipeline; the event loop's thread only waits."""

    def __init__(self, pipeline: Pipeline, max_queue_length: int) -> None:
        self._pipeline = pipeline
        self._max_queue_length = max_queue_length
        # One picture runs besides those that wait.
        self._unfinished = 0
        self._closed = threading.Event()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    async def submit(self, request: GenerationRequest) -> GenerationResult:
        """Make one picture; see ``Engine.submit``."""
        if self._unfinished > self._max_queue_length:
            raise OverloadedError(
                f"{self._max_queue_length} pictures are waiting already; try again later"
            )
        cancelled = threading.Event()
        self._unfinished += 1
        try:
            work = self._worker.submit(self._run, request, cancelled, time.perf_counter())
            return await asyncio.wrap_future(work)
        finally:
            cancelled.set()
            self._unfinished -= 1

    def close(self) -> None:
        """Drop what waits and stop what runs at its next step."""
        self._closed.set()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _run(
        self, request: GenerationRequest, cancelled: threading.Event, arrived: float
    ) -> GenerationResult:
        queue_seconds = time.perf_counter() - arrived
        try:
            result = self._pipeline.generate(
                request, lambda: cancelled.is_set() or self._closed.is_set()
            )
        except GenerationCancelledError:
            raise
        except Exception as error:
            logger.exception("a picture failed")
            raise GenerationFailedError(
                "the picture could not be made; the server's log has the cause"
            ) from error
        return replace(result, queue_seconds=queue_seconds)
