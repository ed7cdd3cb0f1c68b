"""The whole-batch engine over a fake pipeline: which requests share a call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from PIL import Image

from predictor.engine import StepListener, whole_batch
from predictor.engine.interfaces import GenerationCancelledError
from predictor.engine.whole_batch import WholeBatchEngine
from predictor.errors import GenerationFailedError, OverloadedError
from predictor.requests import GenerationDefaults, GenerationRequest, GenerationResult, ModelProfile

PROFILE = ModelProfile("r1", GenerationDefaults(64, 64, 20, 2.0, "unipc"), 8, ("unipc",))


class GatedPipeline:
    """Takes one step for each release of the gate; fails for the prompt "fail"."""

    profile = PROFILE

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.started = threading.Semaphore(0)
        self.batches: list[list[str]] = []
        self.stopped: list[list[str]] = []
        self.max_batch = 100

    def generate(
        self, requests: Sequence[GenerationRequest], on_step: StepListener
    ) -> list[GenerationResult]:
        prompts = [request.prompt for request in requests]
        self.batches.append(prompts)
        self.started.release()
        if len(requests) > self.max_batch:
            raise torch.OutOfMemoryError("secret detail")
        for step in (1, 2):
            self.gate.acquire()
            try:
                on_step(step, 2)
            except GenerationCancelledError:
                self.stopped.append(prompts)
                raise
        if "fail" in prompts:
            raise RuntimeError("secret detail")
        picture = Image.new("RGB", (64, 64))
        return [GenerationResult(request, picture, seconds=0.5) for request in requests]


def request(prompt: str) -> GenerationRequest:
    return GenerationRequest(prompt, "", 0, 64, 64, 20, 2.0, "unipc")


async def next_start(pipeline: GatedPipeline) -> None:
    assert await asyncio.to_thread(pipeline.started.acquire, timeout=5)


def run(
    story: Callable[[WholeBatchEngine, GatedPipeline], object],
    *,
    batch: int = 4,
    queue: int = 8,
    pipeline: GatedPipeline | None = None,
) -> GatedPipeline:
    pipeline = pipeline or GatedPipeline()
    engine = WholeBatchEngine(pipeline, batch, max_queue_length=queue)
    try:
        asyncio.run(asyncio.wait_for(story(engine, pipeline), 30))  # type: ignore[arg-type]
    finally:
        pipeline.gate.release(1_000)
        engine.close()
    return pipeline


async def submit_behind_one(
    engine: WholeBatchEngine, pipeline: GatedPipeline, *requests: GenerationRequest
) -> list[GenerationResult | BaseException]:
    """Queue all requests behind one that runs, then let everything run."""
    while pipeline.gate.acquire(blocking=False):
        pass
    while pipeline.started.acquire(blocking=False):
        pass
    first = asyncio.create_task(engine.submit(request("first")))
    await next_start(pipeline)
    tasks = [asyncio.create_task(engine.submit(one)) for one in requests]
    await asyncio.sleep(0.02)
    pipeline.gate.release(1_000)
    await first
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_matching_requests_share_a_call_and_others_wait_for_their_turn() -> None:
    longer = replace(request("longer"), num_inference_steps=30)
    negative = replace(request("negative"), negative_prompt="blurry")
    seeded = replace(request("seeded"), seed=7)

    async def story(engine: WholeBatchEngine, pipeline: GatedPipeline) -> None:
        requests = [request("a"), longer, seeded, negative, request("b")]
        results = await submit_behind_one(engine, pipeline, *requests)
        assert [result.request for result in results] == requests  # type: ignore[union-attr]

    batches = run(story).batches
    assert batches == [["first"], ["a", "seeded", "b"], ["longer"], ["negative"]]


def test_a_batch_is_bounded() -> None:
    async def story(engine: WholeBatchEngine, pipeline: GatedPipeline) -> None:
        await submit_behind_one(engine, pipeline, *(request(name) for name in "abc"))

    assert run(story, batch=2).batches == [["first"], ["a", "b"], ["c"]]


def test_out_of_memory_halves_this_and_later_batches() -> None:
    pipeline = GatedPipeline()
    pipeline.max_batch = 2

    async def story(engine: WholeBatchEngine, pipeline: GatedPipeline) -> None:
        for _ in range(2):
            await submit_behind_one(engine, pipeline, *(request(name) for name in "abcd"))

    assert run(story, pipeline=pipeline).batches == [
        *(["first"], ["a", "b", "c", "d"], ["a", "b"], ["c", "d"]),
        *(["first"], ["a", "b"], ["c", "d"]),
    ]


def test_results_report_waits_and_listeners_get_each_step() -> None:
    reported: list[tuple[int, int]] = []

    async def story(engine: WholeBatchEngine, pipeline: GatedPipeline) -> None:
        first = asyncio.create_task(engine.submit(request("a")))
        await next_start(pipeline)
        second = asyncio.create_task(
            engine.submit(request("b"), lambda step, steps: reported.append((step, steps)))
        )
        await asyncio.sleep(0.2)
        pipeline.gate.release(4)
        results = [await first, await second]
        assert results[1].queue_seconds >= 0.1
        assert results[1].first_step_seconds >= results[1].queue_seconds

    run(story)
    assert reported == [(1, 2), (2, 2)]


def test_a_failure_hides_its_detail_and_spares_the_rest_of_the_batch() -> None:
    async def story(engine: WholeBatchEngine, pipeline: GatedPipeline) -> None:
        failed, done = await submit_behind_one(engine, pipeline, request("fail"), request("b"))
        assert isinstance(failed, GenerationFailedError)
        assert "secret" not in str(failed)
        assert isinstance(done, GenerationResult)

    run(story)


def test_a_batch_stops_only_when_all_its_callers_have_left() -> None:
    async def story(engine: WholeBatchEngine, pipeline: GatedPipeline) -> None:
        first = asyncio.create_task(engine.submit(request("first")))
        await next_start(pipeline)
        both = [asyncio.create_task(engine.submit(request(name))) for name in "ab"]
        left = asyncio.create_task(engine.submit(replace(request("c"), seed=1, width=128)))
        await asyncio.sleep(0.02)
        first.cancel()
        await asyncio.sleep(0.02)
        pipeline.gate.release()
        await next_start(pipeline)
        both[0].cancel()
        left.cancel()
        await asyncio.sleep(0.02)
        pipeline.gate.release(2)
        assert (await both[1]).request.prompt == "b"

    pipeline = run(story)
    assert pipeline.stopped == [["first"]]
    assert pipeline.batches == [["first"], ["a", "b"]]


def test_a_full_queue_refuses_requests_until_there_is_room() -> None:
    async def story(engine: WholeBatchEngine, pipeline: GatedPipeline) -> None:
        running, waiting = (asyncio.create_task(engine.submit(request(name))) for name in "ab")
        await next_start(pipeline)
        with pytest.raises(OverloadedError, match="1 pictures"):
            await engine.submit(request("c"))
        pipeline.gate.release(2)
        await running
        later = asyncio.create_task(engine.submit(request("d")))
        pipeline.gate.release(4)
        assert (await waiting).request.prompt == "b"
        assert (await later).request.prompt == "d"

    run(story, batch=1, queue=1)


def test_close_stops_running_and_waiting_requests() -> None:
    async def story(engine: WholeBatchEngine, pipeline: GatedPipeline) -> None:
        running = asyncio.create_task(engine.submit(request("a")))
        await next_start(pipeline)
        waiting = asyncio.create_task(engine.submit(replace(request("b"), width=128)))
        await asyncio.sleep(0.02)
        closing = asyncio.create_task(asyncio.to_thread(engine.close))
        with pytest.raises(GenerationCancelledError):
            await waiting
        pipeline.gate.release()
        with pytest.raises(GenerationCancelledError):
            await running
        await closing

    assert run(story).stopped == [["a"]]


def test_a_bug_in_the_engine_fails_waiting_requests_and_serves_later_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own_key = whole_batch.batch_key

    def broken_key(request: GenerationRequest) -> GenerationRequest:
        if request.prompt == "poison":
            raise RuntimeError("secret detail")
        return own_key(request)

    monkeypatch.setattr(whole_batch, "batch_key", broken_key)

    async def story(engine: WholeBatchEngine, pipeline: GatedPipeline) -> None:
        pipeline.gate.release(1_000)
        with pytest.raises(GenerationFailedError) as failure:
            await asyncio.wait_for(engine.submit(request("poison")), 5)
        assert "secret" not in str(failure.value)
        assert (await engine.submit(request("later"))).image is not None
        # The engine's thread updates its state only after the answer.
        await asyncio.to_thread(engine.close)
        assert engine.state[:2] == (0, 0)

    run(story)


def test_the_wait_is_estimated_from_the_duration_of_calls() -> None:
    async def story(engine: WholeBatchEngine, pipeline: GatedPipeline) -> None:
        for name in "ab":
            assert engine.state.queue_seconds == 0
            task = asyncio.create_task(engine.submit(request(name)))
            await next_start(pipeline)
            await asyncio.sleep(0.3)
            pipeline.gate.release(1)
            if name == "a":
                pipeline.gate.release(1)
                await task
        while engine.state.queue_seconds == 0:  # noqa: ASYNC110 - on another thread
            await asyncio.sleep(0.01)
        # One of two steps is left, and a step takes at least 0.15 s.
        assert engine.state.queue_seconds >= 0.15
        pipeline.gate.release(1)
        await task

    run(story)


def test_a_call_is_refused_whole() -> None:
    async def story(engine: WholeBatchEngine, pipeline: GatedPipeline) -> None:
        tasks = [asyncio.create_task(engine.submit(request(name))) for name in "abc"]
        await next_start(pipeline)
        four = [request("four") for _ in range(4)]
        with pytest.raises(OverloadedError, match="room for 3"), engine.admission.reserve(four):
            pass
        with engine.admission.reserve(four[:3]):
            pass
        pipeline.gate.release(1_000)
        await asyncio.gather(*tasks)

    run(story, queue=2)
