"""The step loop over a fake denoiser: who is stepped when, and what one request does to others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from PIL import Image

from predictor.engine import step_loop
from predictor.engine.capacity import Capacity
from predictor.engine.interfaces import GenerationCancelledError
from predictor.engine.second_measurement import SecondMeasurement
from predictor.engine.step_loop import StepEngine
from predictor.errors import GenerationFailedError, OverloadedError
from predictor.requests import GenerationRequest, GenerationResult, InputImage
from tests.predictor.fake_denoiser import FakeDenoiser, Story, request, tell


def test_a_request_joins_at_the_next_step_and_leaves_when_it_is_done() -> None:
    async def story(scene: Story) -> None:
        first = await scene.submit_all(request("long", 4))
        second = scene.submit(request("short", 2))
        await asyncio.sleep(0.05)
        scene.run_free()
        await asyncio.gather(*first, *second)

    assert tell(story).passes == [["long"], ["long", "short"], ["long", "short"], ["long"]]


def test_a_short_request_among_long_ones_is_done_first() -> None:
    async def story(scene: Story) -> None:
        long = await scene.submit_all(*(request(f"long {index}", 50) for index in range(4)))
        (short,) = scene.submit(request("short", 4))
        await asyncio.sleep(0.05)
        scene.denoiser.gate.release(10)
        result = await short
        assert result.request.prompt == "short"
        assert not any(task.done() for task in long)

    tell(story)


def test_guidance_takes_a_second_lane_and_its_absence_does_not() -> None:
    async def story(scene: Story) -> None:
        tasks = await scene.submit_all(
            request("guided", 2), request("unguided", 2, guidance_scale=1.0)
        )
        scene.run_free()
        await asyncio.gather(*tasks)

    assert max(tell(story).lanes) == 3


def test_prompts_that_arrive_together_are_encoded_together_and_once() -> None:
    async def story(scene: Story) -> None:
        blocker = await scene.submit_all(request("blocker"))
        tasks = scene.submit(*(request(prompt) for prompt in ("a", "b", "a")))
        await asyncio.sleep(0.05)
        scene.run_free()
        await asyncio.gather(*blocker, *tasks)

    assert tell(story).encoded == [[""], ["blocker"], ["a", "b"]]


def test_shapes_take_turns() -> None:
    async def story(scene: Story) -> None:
        blocker = await scene.submit_all(request("blocker", 1))
        tasks = scene.submit(
            request("small 1", 3), request("small 2", 3), request("wide", 3, width=128)
        )
        await asyncio.sleep(0.05)
        scene.run_free()
        await asyncio.gather(*blocker, *tasks)

    passes = tell(story).passes
    assert passes[1:] == [["small 1", "small 2"], ["wide"]] * 3


def test_nobody_waits_for_more_turns_than_there_are_jobs() -> None:
    names = [f"{width} {index}" for width in (64, 128, 192) for index in range(width // 32)]

    async def story(scene: Story) -> None:
        blocker = await scene.submit_all(request("blocker", 1))
        requests = (request(name, 6, width=int(name.split()[0])) for name in names)
        tasks = scene.submit(*requests)
        await asyncio.sleep(0.05)
        scene.run_free()
        await asyncio.gather(*blocker, *tasks)

    # Two lanes: each turn has room for a single job.
    passes = tell(story, lanes=2).passes[1:]
    for name in names:
        turns = [turn for turn, prompts in enumerate(passes) if name in prompts]
        assert len(turns) == 6
        assert max(later - earlier for earlier, later in pairwise(turns)) <= 8


def with_image(prompt: str, steps: int) -> GenerationRequest:
    picture = InputImage.of(Image.new("RGB", (64, 64)))
    return replace(request(prompt, steps), image=picture, strength=1.0)


def test_encoding_holds_up_the_steps_of_others_by_a_few_pictures_at_a_time() -> None:
    async def story(scene: Story) -> None:
        first = await scene.submit_all(request("long", 6))
        burst = scene.submit(*(with_image(name, 4) for name in "abc"), request("behind", 2))
        await asyncio.sleep(0.05)
        scene.run_free()
        await asyncio.gather(*first, *burst)

    # Decoding a picture takes the time of two steps here; encoding one is taken for as slow.
    assert tell(story).passes[:4] == [
        ["long"],
        ["long", "a"],
        ["long", "a", "b"],
        ["long", "a", "b", "c", "behind"],
    ]


def test_pictures_that_hold_up_nobody_are_encoded_together() -> None:
    async def story(scene: Story) -> None:
        first = await scene.submit_all(request("first", 1))
        burst = scene.submit(*(with_image(name, 4) for name in "abcdef"))
        await asyncio.sleep(0.05)
        scene.run_free()
        await asyncio.gather(*first, *burst)

    assert tell(story).passes[:3] == [["first"], [*"abcd"], [*"abcdef"]]


def test_larger_pictures_share_a_pass_with_fewer() -> None:
    async def story(scene: Story) -> None:
        tasks = await scene.submit_all(
            *(request(f"large {index}", 4, width=128, height=128) for index in range(5))
        )
        scene.run_free()
        await asyncio.gather(*tasks)

    assert max(tell(story, lanes=16).lanes) == 4


def test_out_of_memory_halves_the_batch_and_fails_nobody() -> None:
    async def story(scene: Story) -> None:
        # Held up, so that the eight are admitted in one turn.
        (held,) = await scene.submit_all(request("held", 1))
        tasks = scene.submit(*(request(f"{index}", 5) for index in range(8)))
        await asyncio.sleep(0.05)
        scene.run_free()
        results = await asyncio.gather(*tasks)
        assert len(results) == 8
        assert scene.capacity.lanes == 4
        await held

    denoiser = tell(story, FakeDenoiser(memory_in_lanes=5))
    assert max(denoiser.lanes) == 4
    assert sum(map(len, denoiser.passes)) == 1 + 8 * 5


def test_a_picture_that_does_not_fit_alone_fails_alone() -> None:
    async def story(scene: Story) -> None:
        tasks = await scene.submit_all(request("pair"), request("single", guidance_scale=1.0))
        scene.run_free()
        pair, single = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(pair, GenerationFailedError)
        assert "does not fit into the device's memory" in str(pair)
        assert isinstance(single, GenerationResult)

    tell(story, FakeDenoiser(memory_in_lanes=1))


@pytest.mark.parametrize("culprit", ["no timesteps", "no step", "no prediction", "nan"])
def test_who_fails_fails_alone(culprit: str) -> None:
    async def story(scene: Story) -> None:
        blocker = await scene.submit_all(request("blocker"))
        tasks = scene.submit(request("a", 6), request(culprit), request("b", 6))
        await asyncio.sleep(0.05)
        scene.run_free()
        first, failed, second = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(failed, GenerationFailedError)
        assert "secret" not in str(failed)
        assert ("NaN" in str(failed)) == (culprit == "nan")
        assert isinstance(first, GenerationResult)
        assert isinstance(second, GenerationResult)
        await asyncio.gather(*blocker)

    # Each of the others was stepped as often as it had to be, and no more.
    passes = tell(story).passes
    assert [sum(name in prompts for prompts in passes) for name in "ab"] == [6, 6]


def test_a_cancelled_job_makes_room_at_the_next_step() -> None:
    async def story(scene: Story) -> None:
        tasks = await scene.submit_all(*(request(f"{index}", 50) for index in range(9)))
        tasks[3].cancel()
        await asyncio.sleep(0.05)
        scene.denoiser.gate.release(2)
        for _ in range(2):
            await scene.stepping()
        for task in tasks:
            task.cancel()

    # What the first pass had depends on the moment of its beginning.
    second = tell(story).passes[1]
    assert "3" not in second
    assert len(second) == 8


def test_a_full_queue_refuses_and_takes_again_when_there_is_room() -> None:
    async def story(scene: Story) -> None:
        tasks = await scene.submit_all(*(request(f"{index}") for index in range(9)))
        with pytest.raises(OverloadedError, match="1 pictures"):
            await scene.engine.submit(request("one too many"))
        scene.run_free()
        await asyncio.gather(*tasks)
        assert (await scene.engine.submit(request("later"))).request.prompt == "later"

    tell(story, lanes=2, queue=1)


def test_who_waits_for_a_lane_is_told_how_long() -> None:
    async def story(scene: Story) -> None:
        tasks = await scene.submit_all(*(request(f"{index}", 2) for index in range(9)))
        await asyncio.sleep(0.05)
        scene.run_free()
        results = await asyncio.gather(*tasks)
        assert results[8].queue_seconds >= 0.05
        assert results[0].seconds >= 0.05

    tell(story)


def test_decoding_holds_up_the_steps_of_others_by_a_few_pictures_at_a_time() -> None:
    async def story(scene: Story) -> None:
        blocker = await scene.submit_all(request("blocker", 1))
        tasks = scene.submit(
            request("long", 40), *(request(f"short {index}", 2) for index in range(7))
        )
        await asyncio.sleep(0.05)
        scene.run_free()
        await asyncio.gather(*blocker, *tasks)

    events = tell(story).events
    decodings = [event for event in events[4:] if event != "step"]
    # Eight were stepped and decoding takes the time of two steps; then only one is stepped.
    assert events[3:8] == ["step", "decode 4", "step", "decode 1", "step"]
    assert decodings == ["decode 4"] + ["decode 1"] * 4


def test_closing_stops_what_runs_and_what_waits() -> None:
    async def story(scene: Story) -> None:
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

    assert len(tell(story).passes) < 1_000


def test_a_bug_in_the_engine_fails_who_waits_and_later_callers_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, poisoned = step_loop.run_isolated, iter([True])

    def broken(work: Any, items: list[Any], *rest: Any) -> None:
        if next(poisoned, False):
            raise RuntimeError("secret detail")
        own(work, items, *rest)

    monkeypatch.setattr(step_loop, "run_isolated", broken)

    async def story(scene: Story) -> None:
        scene.run_free()
        (lost,) = scene.submit(request("taken from the queue, and then the engine raises"))
        with pytest.raises(GenerationFailedError) as failure:
            await asyncio.wait_for(lost, 5)
        assert "secret" not in str(failure.value)
        (later,) = scene.submit(request("later"))
        assert (await later).image is not None
        assert scene.engine.state[:2] == (0, 0)

    tell(story)


def test_a_bug_in_the_engine_fails_who_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(scene: Story) -> None:
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

    tell(story)


def test_an_idle_engine_takes_what_it_measures_then() -> None:
    denoiser, is_measured = FakeDenoiser(), threading.Event()
    denoiser.gate.release(100)

    def measure(go_on: Callable[[], None]) -> Capacity:
        is_measured.set()
        return Capacity(16, latent_pixels=64, steps_per_decode=2.0)

    first = Capacity(2, latent_pixels=64, steps_per_decode=2.0)
    engine = StepEngine(denoiser, first, 8, SecondMeasurement(measure, idle_seconds=0))
    assert is_measured.wait(10)
    # The engine's thread has taken the result before it begins a picture.
    picture = asyncio.run(engine.submit(request("any")))
    engine.close()

    assert picture.request.prompt == "any"
    assert engine.state.lanes == 16
