"""The hand-over in the step loop with a fake: which jobs share a step, and failures."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from predictor.engine.denoising import Denoising, SchedulerSteps
from predictor.engine.interfaces import GenerationCancelledError, Lane
from predictor.errors import GenerationFailedError
from predictor.requests import GenerationRequest, GenerationResult
from tests.predictor.fake_denoiser import (
    Conditioning,
    FakeDenoiser,
    FakeScheduler,
    Scene,
    request,
    run_story,
)


class TwoExperts(FakeDenoiser):
    """Hands over at the requested step, to an expert that encodes prompts to other numbers.

    ``by`` lists the expert of each forward pass.
    """

    def __init__(self, memory_in_lanes: int = 10_000) -> None:
        super().__init__(memory_in_lanes)
        self.by: list[str] = []
        self.encoders: list[tuple[Hashable, list[str]]] = []

    def encode(self, prompts: Sequence[str], encoders: Hashable = ()) -> list[Conditioning]:
        self.encoders.append((encoders, list(prompts)))
        return super().encode(prompts, encoders)

    def begin(self, request: GenerationRequest) -> Denoising:
        begun = super().begin(request)
        if request.denoising_end is not None:
            own = int(request.denoising_end * request.num_inference_steps)
            scheduler = FakeScheduler("no step" if request.prompt == "no refiner step" else "")
            scheduler.set_timesteps(request.num_inference_steps)
            rest = scheduler.timesteps[own:]
            begun.hand_over_after(
                own,
                Denoising(
                    SchedulerSteps(scheduler, rest),
                    begun.latents,
                    begun.generator,
                    kind="second",
                    encoders="other",
                ),
            )
        return begun

    def predict(self, lanes: Sequence[Lane]) -> torch.Tensor:
        kinds = {lane.denoising.kind for lane in lanes}
        assert len(kinds) == 1
        prompts = [self._prompts[int(lane.conditioning[0])] for lane in lanes]
        if kinds == {"second"} and "no refiner" in prompts:
            self.waiting.release()
            self.gate.acquire()
            raise RuntimeError("secret detail")
        # The other expert would encode the same prompt to a different number.
        encoders = {self._encoders_of(int(lane.conditioning[0])) for lane in lanes}
        assert encoders <= {"other"} if kinds == {"second"} else encoders <= {()}
        predictions = super().predict(lanes)
        self.by.append("second" if kinds == {"second"} else "first")
        return predictions

    def _encoders_of(self, index: int) -> Hashable:
        for encoders, prompts in self.encoders:
            if index < len(prompts):
                return encoders
            index -= len(prompts)
        raise AssertionError


def refined(prompt: str, steps: int, end: float) -> GenerationRequest:
    return replace(request(prompt, steps), denoising_end=end)


def test_experts_take_turns_and_each_batches_its_jobs() -> None:
    async def story(scene: Scene) -> None:
        blocker = await scene.submit_all(request("blocker", 1))
        tasks = await scene.queue(refined("a", 4, 0.5), refined("b", 4, 0.5), request("plain", 6))
        scene.run_free()
        await asyncio.gather(*blocker, *tasks)

    denoiser = TwoExperts()
    run_story(story, denoiser)

    passes = list(zip(denoiser.by, denoiser.passes, strict=True))[1:]
    assert passes == [
        *[("first", ["a", "b", "plain"])] * 2,
        *[("second", ["a", "b"]), ("first", ["plain"])] * 2,
        *[("first", ["plain"])] * 2,
    ]


def test_a_job_waits_for_at_most_as_many_turns_as_there_are_jobs() -> None:
    async def story(scene: Scene) -> None:
        blocker = await scene.submit_all(request("blocker", 1))
        tasks = await scene.queue(
            *(refined(f"refined {index}", 8, 0.25 + index / 8) for index in range(4)),
            *(request(f"plain {index}", 8) for index in range(4)),
        )
        scene.run_free()
        await asyncio.gather(*blocker, *tasks)

    # With two lanes, each turn takes a single job.
    passes = run_story(story, TwoExperts(), lanes=2).passes[1:]
    for name in {prompt for prompts in passes for prompt in prompts}:
        turns = [turn for turn, prompts in enumerate(passes) if name in prompts]
        assert len(turns) == 8
        assert max(later - earlier for earlier, later in pairwise(turns)) <= 8


def test_prompts_are_encoded_for_both_experts_when_they_arrive() -> None:
    async def story(scene: Scene) -> None:
        blocker = await scene.submit_all(request("blocker", 1))
        tasks = await scene.queue(refined("a", 4, 0.5), request("b"), refined("c", 4, 0.5))
        scene.run_free()
        await asyncio.gather(*blocker, *tasks)

    denoiser = TwoExperts()
    run_story(story, denoiser)

    assert denoiser.encoders[2:] == [((), ["a", "b", "c"]), ("other", ["", "a", "c"])]


def test_progress_counts_the_steps_of_both() -> None:
    reported: list[tuple[int, int]] = []

    async def story(scene: Scene) -> None:
        scene.run_free()
        await scene.engine.submit(
            refined("a", 5, 0.6), lambda step, steps: reported.append((step, steps))
        )

    run_story(story, TwoExperts())
    assert reported == [(step, 5) for step in range(1, 6)]


@pytest.mark.parametrize("culprit", ["no refiner", "no refiner step"])
def test_a_failure_at_the_second_expert_affects_only_its_job(culprit: str) -> None:
    async def story(scene: Scene) -> None:
        blocker = await scene.submit_all(request("blocker", 1))
        tasks = await scene.queue(refined("a", 6, 0.5), refined(culprit, 6, 0.5), request("b", 6))
        scene.run_free()
        first, failed, second = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(failed, GenerationFailedError)
        assert "secret" not in str(failed)
        assert isinstance(first, GenerationResult)
        assert isinstance(second, GenerationResult)
        await asyncio.gather(*blocker)

    passes = run_story(story, TwoExperts()).passes
    assert [sum(name in prompts for prompts in passes) for name in "ab"] == [6, 6]


def test_out_of_memory_at_the_second_expert_halves_the_batch() -> None:
    class Small(TwoExperts):
        def predict(self, lanes: Sequence[Lane]) -> torch.Tensor:
            self.memory_in_lanes = 5 if lanes[0].denoising.kind == "second" else 10_000
            return super().predict(lanes)

    async def story(scene: Scene) -> None:
        # Paused, so that the eight are admitted in one turn and reach the hand-over together.
        (held,) = await scene.submit_all(request("held", 1))
        tasks = await scene.queue(*(refined(f"{index}", 4, 0.5) for index in range(8)))
        scene.run_free()
        assert len(await asyncio.gather(held, *tasks)) == 9

    denoiser = Small()
    run_story(story, denoiser)
    lanes = [count for count, by in zip(denoiser.lanes, denoiser.by, strict=True) if by == "second"]
    assert max(lanes) == 4
    assert sum(lanes) == 8 * 2 * 2


@pytest.mark.parametrize("steps_before", [1, 3])
def test_a_caller_may_disconnect_in_either_half(steps_before: int) -> None:
    async def story(scene: Scene) -> None:
        (task,) = await scene.submit_all(refined("a", 4, 0.5))
        for _ in range(steps_before):
            scene.denoiser.gate.release()
            await scene.stepping()
        task.cancel()
        await asyncio.sleep(0.05)
        scene.run_free()
        await scene.engine.submit(request("next", 1))

    passes = run_story(story, TwoExperts()).passes
    # One step was in flight.
    assert passes == [["a"]] * (steps_before + 1) + [["next"]]


def test_closing_stops_the_second_half() -> None:
    async def story(scene: Scene) -> None:
        (task,) = await scene.submit_all(refined("a", 1_000, 0.001))
        scene.denoiser.gate.release(3)
        for _ in range(3):
            await scene.stepping()
        closed = asyncio.create_task(asyncio.to_thread(scene.engine.close))
        await asyncio.sleep(0.05)
        scene.run_free()
        await closed
        with pytest.raises(GenerationCancelledError):
            await task

    assert len(run_story(story, TwoExperts()).passes) < 1_000
