"""The serial engine over a pipeline of the tests' own: order, bounds, failures, cancellation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from PIL import Image

from predictor.engine import SerialEngine
from predictor.engine.seam import GenerationCancelledError
from predictor.errors import GenerationFailedError, OverloadedError
from predictor.types import GenerationDefaults, GenerationRequest, GenerationResult, ModelProfile

PROFILE = ModelProfile("r1", GenerationDefaults(64, 64, 20, 2.0, "unipc"), 8, ("unipc",))


class GatedPipeline:
    """Makes a picture each time the gate opens; fails for the prompt "fail"."""

    profile = PROFILE

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.started = threading.Semaphore(0)
        self.begun: list[str] = []
        self.cancelled: list[str] = []

    def generate(
        self, request: GenerationRequest, is_cancelled: Callable[[], bool]
    ) -> GenerationResult:
        self.begun.append(request.prompt)
        self.started.release()
        while not self.gate.acquire(timeout=0.01):
            if is_cancelled():
                self.cancelled.append(request.prompt)
                raise GenerationCancelledError
        if request.prompt == "fail":
            raise RuntimeError("secret detail")
        return GenerationResult(request, Image.new("RGB", (64, 64)), seconds=0.5)


def request(prompt: str) -> GenerationRequest:
    return GenerationRequest(prompt, "", 0, 64, 64, 20, 2.0, "unipc")


async def next_start(pipeline: GatedPipeline) -> None:
    assert await asyncio.to_thread(pipeline.started.acquire, timeout=5)


def run(story: Callable[[SerialEngine, GatedPipeline], object], queue: int = 8) -> GatedPipeline:
    pipeline = GatedPipeline()
    engine = SerialEngine(pipeline, max_queue_length=queue)
    try:
        asyncio.run(story(engine, pipeline))  # type: ignore[arg-type]
    finally:
        engine.close()
    return pipeline


def test_requests_run_in_the_order_of_arrival() -> None:
    async def story(engine: SerialEngine, pipeline: GatedPipeline) -> None:
        tasks = [asyncio.create_task(engine.submit(request(name))) for name in "abc"]
        await next_start(pipeline)
        await asyncio.sleep(0.02)
        pipeline.gate.release(3)
        results = await asyncio.gather(*tasks)
        assert [result.request.prompt for result in results] == list("abc")
        assert results[2].queue_seconds >= 0.02

    assert run(story).begun == list("abc")


def test_a_failure_is_told_without_its_detail_and_the_next_runs() -> None:
    async def story(engine: SerialEngine, pipeline: GatedPipeline) -> None:
        tasks = [asyncio.create_task(engine.submit(request(name))) for name in ("fail", "b")]
        pipeline.gate.release(2)
        failed, done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(failed, GenerationFailedError)
        assert "secret" not in str(failed)
        assert isinstance(done, GenerationResult)

    run(story)


def test_a_cancelled_request_stops_where_it_runs_and_never_begins_where_it_waits() -> None:
    async def story(engine: SerialEngine, pipeline: GatedPipeline) -> None:
        tasks = [asyncio.create_task(engine.submit(request(name))) for name in "abc"]
        await next_start(pipeline)
        tasks[0].cancel()
        tasks[1].cancel()
        await next_start(pipeline)
        pipeline.gate.release()
        assert (await tasks[2]).request.prompt == "c"

    pipeline = run(story)
    assert pipeline.begun == ["a", "c"]
    assert pipeline.cancelled == ["a"]


def test_a_full_queue_refuses_and_takes_again_when_there_is_room() -> None:
    async def story(engine: SerialEngine, pipeline: GatedPipeline) -> None:
        running, waiting = (asyncio.create_task(engine.submit(request(name))) for name in "ab")
        await next_start(pipeline)
        with pytest.raises(OverloadedError, match="1 pictures"):
            await engine.submit(request("c"))
        pipeline.gate.release()
        await running
        later = asyncio.create_task(engine.submit(request("d")))
        pipeline.gate.release(2)
        assert (await waiting).request.prompt == "b"
        assert (await later).request.prompt == "d"

    run(story, queue=1)


def test_closing_stops_what_runs() -> None:
    async def story(engine: SerialEngine, pipeline: GatedPipeline) -> None:
        task = asyncio.create_task(engine.submit(request("a")))
        await next_start(pipeline)
        await asyncio.to_thread(engine.close)
        with pytest.raises(GenerationCancelledError):
            await task

    assert run(story).cancelled == ["a"]
