"""The step loop over a fake denoiser: the order of steps, and isolation between requests."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from PIL import Image

from predictor.engine import step_loop
from predictor.engine.interfaces import GenerationCancelledError
from predictor.errors import GenerationFailedError, OverloadedError
from predictor.requests import GenerationRequest, GenerationResult, InputImage
from tests.predictor.fake_denoiser import FakeDenoiser, Scene, request, run_story


def test_a_request_joins_at_the_next_step_and_leaves_when_it_is_done() -> None:
    async def story(scene: Scene) -> None:
        first = await scene.submit_all(request("long", 4))
        second = await scene.queue(request("short", 2))
        scene.run_free()
        await asyncio.gather(*first, *second)

    assert run_story(story).passes == [["long"], ["long", "short"], ["long", "short"], ["long"]]


def test_a_short_request_finishes_before_long_ones() -> None:
    async def story(scene: Scene) -> None:
        long = await scene.submit_all(*(request(f"long {index}", 50) for index in range(4)))
        (short,) = await scene.queue(request("short", 4))
        scene.denoiser.gate.release(10)
        result = await short
        assert result.request.prompt == "short"
        assert not any(task.done() for task in long)

    run_story(story)


def test_only_guidance_takes_a_second_lane() -> None:
    async def story(scene: Scene) -> None:
        tasks = await scene.submit_all(
            request("guided", 2), request("unguided", 2, guidance_scale=1.0)
        )
        scene.run_free()
        await asyncio.gather(*tasks)

    assert max(run_story(story).lanes) == 3


def test_prompts_that_arrive_together_are_encoded_once_and_in_one_call() -> None:
    async def story(scene: Scene) -> None:
        blocker = await scene.submit_all(request("blocker"))
        tasks = await scene.queue(*(request(prompt) for prompt in ("a", "b", "a")))
        scene.run_free()
        await asyncio.gather(*blocker, *tasks)

    assert run_story(story).encoded == [[""], ["blocker"], ["a", "b"]]


def test_shapes_take_turns() -> None:
    async def story(scene: Scene) -> None:
        blocker = await scene.submit_all(request("blocker", 1))
        tasks = await scene.queue(
            request("small 1", 3), request("small 2", 3), request("wide", 3, width=128)
        )
        scene.run_free()
        await asyncio.gather(*blocker, *tasks)

    passes = run_story(story).passes
    assert passes[1:] == [["small 1", "small 2"], ["wide"]] * 3


def test_a_job_waits_for_at_most_as_many_turns_as_there_are_jobs() -> None:
    names = [f"{width} {index}" for width in (64, 128, 192) for index in range(width // 32)]

    async def story(scene: Scene) -> None:
        blocker = await scene.submit_all(request("blocker", 1))
        requests = (request(name, 6, width=int(name.split()[0])) for name in names)
        tasks = await scene.queue(*requests)
        scene.run_free()
        await asyncio.gather(*blocker, *tasks)

    # With two lanes, each turn fits a single job.
    passes = run_story(story, lanes=2).passes[1:]
    for name in names:
        turns = [turn for turn, prompts in enumerate(passes) if name in prompts]
        assert len(turns) == 6
        assert max(later - earlier for earlier, later in pairwise(turns)) <= 8


def with_image(prompt: str, steps: int) -> GenerationRequest:
    picture = InputImage.of(Image.new("RGB", (64, 64)))
    return replace(request(prompt, steps), image=picture, strength=1.0)


def test_encoding_delays_other_steps_by_only_a_few_pictures() -> None:
    async def story(scene: Scene) -> None:
        first = await scene.submit_all(request("long", 6))
        burst = await scene.queue(*(with_image(name, 4) for name in "abc"), request("behind", 2))
        scene.run_free()
        await asyncio.gather(*first, *burst)

    # Decoding takes the time of two steps here, and the engine assumes the same of encoding.
    assert run_story(story).passes[:4] == [
        ["long"],
        ["long", "a"],
        ["long", "a", "b"],
        ["long", "a", "b", "c", "behind"],
    ]


def test_pictures_that_delay_no_other_request_are_encoded_together() -> None:
    async def story(scene: Scene) -> None:
        first = await scene.submit_all(request("first", 1))
        burst = await scene.queue(*(with_image(name, 4) for name in "abcdef"))
        scene.run_free()
        await asyncio.gather(*first, *burst)

    assert run_story(story).passes[:3] == [["first"], [*"abcd"], [*"abcdef"]]


def test_larger_pictures_share_a_pass_with_fewer_others() -> None:
    async def story(scene: Scene) -> None:
        tasks = await scene.submit_all(
            *(request(f"large {index}", 4, width=128, height=128) for index in range(5))
        )
        scene.run_free()
        await asyncio.gather(*tasks)

    assert max(run_story(story, lanes=16).lanes) == 4


def test_out_of_memory_halves_the_batch_and_fails_no_request() -> None:
    async def story(scene: Scene) -> None:
        # This pass blocks, so that the eight requests are admitted in one turn.
        (held,) = await scene.submit_all(request("held", 1))
        tasks = await scene.queue(*(request(f"{index}", 5) for index in range(8)))
        scene.run_free()
        results = await asyncio.gather(*tasks)
        assert len(results) == 8
        assert scene.capacity.lanes == 4
        await held

    denoiser = run_story(story, FakeDenoiser(memory_in_lanes=5))
    assert max(denoiser.lanes) == 4
    assert sum(map(len, denoiser.passes)) == 1 + 8 * 5


def test_a_picture_that_does_not_fit_alone_fails_alone() -> None:
    async def story(scene: Scene) -> None:
        tasks = await scene.submit_all(request("pair"), request("single", guidance_scale=1.0))
        scene.run_free()
        pair, single = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(pair, GenerationFailedError)
        assert "does not fit into the device's memory" in str(pair)
        assert isinstance(single, GenerationResult)

    run_story(story, FakeDenoiser(memory_in_lanes=1))


@pytest.mark.parametrize("culprit", ["no timesteps", "no step", "no prediction", "nan"])
def test_a_failing_request_fails_alone(culprit: str) -> None:
    async def story(scene: Scene) -> None:
        blocker = await scene.submit_all(request("blocker"))
        tasks = await scene.queue(request("a", 6), request(culprit), request("b", 6))
        scene.run_free()
        first, failed, second = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(failed, GenerationFailedError)
        assert "secret" not in str(failed)
        assert ("NaN" in str(failed)) == (culprit == "nan")
        assert isinstance(first, GenerationResult)
        assert isinstance(second, GenerationResult)
        await asyncio.gather(*blocker)

    # Each of the others took exactly its number of steps.
    passes = run_story(story).passes
    assert [sum(name in prompts for prompts in passes) for name in "ab"] == [6, 6]


def test_a_cancelled_job_makes_room_at_the_next_step() -> None:
    async def story(scene: Scene) -> None:
        tasks = await scene.submit_all(*(request(f"{index}", 50) for index in range(9)))
        tasks[3].cancel()
        await asyncio.sleep(0.05)
        scene.denoiser.gate.release(2)
        for _ in range(2):
            await scene.stepping()
        for task in tasks:
            task.cancel()

    # The content of the first pass depends on timing.
    second = run_story(story).passes[1]
    assert "3" not in second
    assert len(second) == 8


def test_a_full_queue_refuses_requests_until_there_is_room() -> None:
    async def story(scene: Scene) -> None:
        tasks = await scene.submit_all(*(request(f"{index}") for index in range(9)))
        with pytest.raises(OverloadedError, match="1 pictures"):
            await scene.engine.submit(request("one too many"))
        scene.run_free()
        await asyncio.gather(*tasks)
        assert (await scene.engine.submit(request("later"))).request.prompt == "later"

    run_story(story, lanes=2, queue=1)


def test_the_places_of_a_call_are_kept_until_its_pictures_are_submitted() -> None:
    async def story(scene: Scene) -> None:
        others = await scene.submit_all(*(request(f"{index}") for index in range(9)))
        ours = [request("ours"), request("ours")]
        with scene.engine.admission.reserve(ours):
            with pytest.raises(OverloadedError, match="3 pictures are waiting"):
                await scene.engine.submit(request("one too many"))
            tasks = scene.submit(*ours)
            scene.run_free()
            await asyncio.gather(*tasks, *others)

    run_story(story, lanes=2, queue=3)


def test_the_wait_is_estimated_from_the_duration_of_turns() -> None:
    async def story(scene: Scene) -> None:
        assert scene.engine.state.queue_seconds == 0
        tasks = await scene.submit_all(*(request(f"{index}", 100) for index in range(8)))
        for _ in range(3):
            await asyncio.sleep(0.1)
            scene.denoiser.gate.release()
            await scene.stepping()
        # Passes take at least 0.1 s, eight pictures of at least 96 steps share them, and none fits.
        assert scene.engine.state.queue_seconds >= 5
        scene.run_free()
        await asyncio.gather(*tasks)
        assert scene.engine.state.queue_seconds == 0

    run_story(story, lanes=16)


def test_the_result_reports_the_wait_for_a_lane() -> None:
    async def story(scene: Scene) -> None:
        tasks = await scene.submit_all(*(request(f"{index}", 2) for index in range(9)))
        await asyncio.sleep(0.05)
        scene.run_free()
        results = await asyncio.gather(*tasks)
        assert results[8].queue_seconds >= 0.05
        assert results[0].seconds >= 0.05

    run_story(story)


def test_decoding_delays_other_steps_by_only_a_few_pictures() -> None:
    async def story(scene: Scene) -> None:
        blocker = await scene.submit_all(request("blocker", 1))
        tasks = await scene.queue(
            request("long", 40), *(request(f"short {index}", 2) for index in range(7))
        )
        scene.run_free()
        await asyncio.gather(*blocker, *tasks)

    events = run_story(story).events
    decodings = [event for event in events[4:] if event != "step"]
    # Decoding takes the time of two steps: a step of eight allows four pictures, a step of one
    # allows one.
    assert events[3:8] == ["step", "decode 4", "step", "decode 1", "step"]
    assert decodings == ["decode 4"] + ["decode 1"] * 4


def test_close_stops_running_and_waiting_requests() -> None:
    async def story(scene: Scene) -> None:
        tasks = await scene.submit_all(*(request(f"{index}", 1_000) for index in range(12)))
        closing = asyncio.to_thread(scene.engine.close)
        scene.denoiser.gate.release(3)
        closed = asyncio.create_task(closing)
        await asyncio.sleep(0.05)
        scene.run_free()
        await closed
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, GenerationCancelledError) for outcome in outcomes)
        with pytest.raises(GenerationCancelledError):
            await scene.engine.submit(request("late"))

    assert len(run_story(story).passes) < 1_000


def test_a_bug_in_the_engine_fails_waiting_requests_and_serves_later_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, poisoned = step_loop.run_isolated, iter([True])

    def broken(work: Any, items: list[Any], *rest: Any) -> None:
        if next(poisoned, False):
            raise RuntimeError("secret detail")
        own(work, items, *rest)

    monkeypatch.setattr(step_loop, "run_isolated", broken)

    async def story(scene: Scene) -> None:
        scene.run_free()
        (lost,) = scene.submit(request("the engine raises after taking this from the queue"))
        with pytest.raises(GenerationFailedError) as failure:
            await asyncio.wait_for(lost, 5)
        assert "secret" not in str(failure.value)
        (later,) = scene.submit(request("later"))
        assert (await later).image is not None
        # The engine's thread updates its state only after the answer.
        await asyncio.to_thread(scene.engine.close)
        assert scene.engine.state[:2] == (0, 0)

    run_story(story)


def test_a_bug_in_the_engine_fails_requests_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(scene: Scene) -> None:
        running = await scene.submit_all(request("a", 50), request("b", 50))

        def broken(jobs: Any) -> list[Any]:
            monkeypatch.undo()
            raise RuntimeError("secret detail")

        monkeypatch.setattr(scene.capacity, "fitting", broken)
        scene.run_free()
        for task in running:
            with pytest.raises(GenerationFailedError):
                await asyncio.wait_for(task, 5)
        (later,) = scene.submit(request("later"))
        assert (await later).image is not None

    run_story(story)


def test_a_listener_that_raises_fails_only_its_own_picture() -> None:
    def raising(step: int, steps: int) -> None:
        raise RuntimeError("secret detail")

    async def story(scene: Scene) -> None:
        (other,) = await scene.submit_all(request("other", 5))
        watched = asyncio.create_task(scene.engine.submit(request("watched"), raising))
        scene._tasks.append(watched)
        await scene.queue()
        scene.run_free()
        with pytest.raises(GenerationFailedError):
            await watched
        assert (await other).request.prompt == "other"

    run_story(story)
