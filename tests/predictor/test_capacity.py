"""The bounds of a turn, and what the engine learns about them from its own forward passes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from predictor.engine.admission import Admission
from predictor.engine.batch_search import Comparison
from predictor.engine.batch_searches import Start
from predictor.engine.capacity import Capacity, ForwardPass, line_through, measured_capacity
from predictor.engine.interfaces import Lane
from predictor.engine.service_times import ServiceTimes
from predictor.engine.step_loop import StepEngine
from predictor.engine.step_timer import StepTimer
from tests.predictor.fake_denoiser import FakeDenoiser, request

SMALL, LARGE = torch.Size((1, 4, 8, 8)), torch.Size((1, 4, 16, 16))


def learning(largest: int = 64, best: int = 2, **options: Any) -> Capacity:
    start = Start(best, largest, **options)
    return Capacity(best, 64, 1.0, lane_seconds=0.1, start=start)


def jobs(count: int, shape: torch.Size = SMALL) -> list[Any]:
    """As many jobs with guidance."""
    return [SimpleNamespace(lanes=2, shape=shape, kind=("any", shape))] * count


def run(capacity: Capacity, ready: Sequence[Any], seconds_of: dict[int, float]) -> list[int]:
    """Take 200 turns with as many jobs ready; returns the lanes of each pass."""
    lanes = []
    for _ in range(200):
        batch = capacity.fitting(ready[: capacity.jobs_in_flight])
        done = ForwardPass.over(batch)
        capacity.observe(done, seconds_of[done.lanes])
        lanes.append(done.lanes)
    return lanes


# A pass takes 8 ms for up to 8 lanes, and above in proportion.
GAINS_UP_TO_8 = {lanes: max(8, lanes) / 1000 for lanes in range(1, 65)}
GAINS_NOTHING = {lanes: lanes / 1000 for lanes in range(1, 65)}
GAINS_ALWAYS = dict.fromkeys(GAINS_NOTHING, 0.01)


def test_the_bound_grows_while_larger_passes_have_more_throughput() -> None:
    capacity = learning()
    lanes = run(capacity, jobs(32), GAINS_UP_TO_8)

    assert capacity.lanes == 8
    assert capacity.changes == {"grown": 2, "shrunk": 0}
    # Once found, it stays.
    assert set(lanes[-50:]) == {8}


def test_the_bound_stays_where_larger_passes_gain_nothing() -> None:
    capacity = learning()
    lanes = run(capacity, jobs(32), GAINS_NOTHING)

    assert capacity.lanes == 2
    assert set(lanes[-50:]) == {2}
    # Jobs still take turns.
    assert capacity.jobs_in_flight == 8


def test_the_bound_is_not_larger_than_the_setting() -> None:
    capacity = learning(largest=16)
    run(capacity, jobs(32), GAINS_ALWAYS)

    assert capacity.lanes == 16


def test_an_unknown_size_is_tried_only_if_that_many_jobs_are_ready() -> None:
    capacity = learning()

    assert set(run(capacity, jobs(1), GAINS_UP_TO_8)) == {2}
    assert capacity.lanes == 2


def test_each_shape_has_a_bound_of_its_own() -> None:
    capacity = learning()
    for ready, seconds in ((jobs(32), GAINS_UP_TO_8), (jobs(32, LARGE), GAINS_NOTHING)):
        run(capacity, ready, seconds)

    # A shape that runs later begins where the default shape has ended, in proportion to its size.
    assert len(capacity.fitting(jobs(32))) == 4
    assert len(capacity.fitting(jobs(32, LARGE))) == 1


def test_never_more_lanes_are_in_flight_than_the_setting() -> None:
    """An operator can thus trade throughput for latency."""
    for largest, expected in ((2, 1), (8, 4), (64, 8)):
        assert learning(largest=largest).jobs_in_flight == expected

    unguided = request("any", guidance_scale=0.0)

    denoiser, most = FakeDenoiser(), []
    predict = denoiser.predict

    def note(lanes: Sequence[Lane]) -> torch.Tensor:
        most.append(engine.state.in_flight)
        return predict(lanes)

    denoiser.predict = note  # type: ignore[method-assign]
    denoiser.gate.release(1_000)
    engine = StepEngine(denoiser, learning(largest=4), 64)

    async def submit_all() -> None:
        await asyncio.gather(*(engine.submit(unguided) for _ in range(9)))

    with contextlib.closing(engine):
        asyncio.run(submit_all())
    assert max(most) <= 4


def test_out_of_memory_bounds_what_is_learned() -> None:
    capacity = learning()
    run(capacity, jobs(32), GAINS_ALWAYS)
    assert capacity.lanes == 64

    capacity.shrink(jobs(32))
    assert capacity.lanes == 32
    assert len(capacity.fitting(jobs(32))) == 16
    assert len(capacity.fitting(jobs(32, LARGE))) == 4
    assert capacity.out_of_memory == 1


def test_large_pictures_that_do_not_fit_leave_room_for_small_ones_to_grow() -> None:
    capacity = learning()
    # As much memory as 32 lanes of the default shape.
    capacity.shrink(jobs(4, LARGE))
    run(capacity, jobs(32), GAINS_ALWAYS)

    assert capacity.lanes == 16
    assert len(capacity.fitting(jobs(32, LARGE))) == 2


def test_a_bound_that_did_not_fit_into_memory_is_not_used_by_later_engines() -> None:
    learned: list[int] = []
    capacity = learning(best=16, is_settled=True, on_learned=learned.append)
    capacity.shrink(jobs(8))

    assert learned == [8]


def test_a_learned_bound_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    learned: list[int] = []
    capacity = learning(on_learned=learned.append)
    with caplog.at_level(logging.INFO):
        run(capacity, jobs(32), GAINS_UP_TO_8)

    assert learned == [8]
    (line,) = caplog.messages
    assert line.startswith("64x64: up to 8 lanes in a forward pass; 4 are 2.00 times as fast as 2")


def test_what_was_learned_before_is_used_at_once() -> None:
    capacity = learning(best=16, is_settled=True)

    assert len(capacity.fitting(jobs(32))) == 8
    assert len(capacity.fitting(jobs(32))) == 8
    assert capacity.jobs_in_flight == 8


def test_a_measured_capacity_knows_the_seconds_of_a_picture() -> None:
    denoiser = FakeDenoiser()
    denoiser.gate.release(1_000)

    capacity = measured_capacity(denoiser, request("any"), Start(2, 16))

    assert capacity.lanes == 2
    assert capacity.steps_per_decode > 0
    assert capacity.has_times
    assert set(denoiser.lanes) == {2}


def test_the_expected_seconds_are_those_of_one_guided_picture() -> None:
    capacity = learning()

    capacity.expect(0.5, 0.25)

    assert capacity.step_seconds(2) == pytest.approx(0.5)
    assert capacity.decode_seconds == pytest.approx(0.25)


def test_a_cold_engine_expects_larger_passes_until_it_has_compared_some() -> None:
    """Otherwise it would refuse calls because of the wait in passes of one picture."""
    denoiser = FakeDenoiser()
    denoiser.gate.release(1_000)
    capacity = measured_capacity(denoiser, request("any"), Start(2, 64))
    one_picture = capacity.step_seconds(2)

    assert capacity.step_seconds(16) == pytest.approx(2.75 * one_picture)

    run(capacity, jobs(32), GAINS_NOTHING)
    assert capacity.step_seconds(2) == pytest.approx(0.002)
    assert capacity.step_seconds(16) == pytest.approx(0.016)


def test_passes_that_do_not_fit_into_memory_are_not_expected() -> None:
    capacity = learning()
    capacity.shrink(jobs(2))

    assert capacity.step_seconds(16) == pytest.approx(8 * capacity.step_seconds(2))


def test_a_cold_engine_accepts_a_burst_that_it_can_serve() -> None:
    # A step of one picture takes 1 s, and so does decoding it.
    capacity = Capacity(2, 64, 1.0, fixed_seconds=0.75, lane_seconds=0.125, start=Start(2, 64))
    admission = Admission(100, max_queue_seconds=100, times=ServiceTimes(capacity))

    with contextlib.ExitStack() as calls:
        for _ in range(9):
            calls.enter_context(admission.reserve([request("any", steps=20)]))

        # The first eight share 20 passes of 16 lanes. One after another, they would take 168 s.
        assert admission.queue_seconds == pytest.approx(20 * (2.75 + 8 / 20))


def test_the_expected_seconds_follow_what_is_learned() -> None:
    capacity = learning()
    decode_seconds = capacity.decode_seconds
    run(capacity, jobs(32), {lanes: 0.08 + 0.005 * lanes for lanes in range(1, 65)})

    assert capacity.step_seconds(8) == pytest.approx(0.12)
    assert capacity.decode_seconds == pytest.approx(decode_seconds)


def test_the_seconds_of_a_pass_grow_with_its_lanes() -> None:
    fixed, lane = line_through(Comparison(2, 1.2, 4, 1.6))
    assert (fixed, lane) == (pytest.approx(0.8), pytest.approx(0.2))
    assert line_through(Comparison(2, 1.0, 8, 0.9)) == (0.9, 0.0)

    capacity = Capacity(4, 64, steps_per_decode=1.0, fixed_seconds=fixed, lane_seconds=lane)
    assert capacity.step_seconds(2) == pytest.approx(1.2)
    assert capacity.step_seconds(4) == pytest.approx(1.6)
    # Twice the lanes that fit take two passes.
    assert capacity.step_seconds(8) == pytest.approx(3.2)
    assert capacity.decode_seconds == pytest.approx(0.8)


def test_a_slow_decoder_gets_one_picture_and_a_fast_one_a_few() -> None:
    assert Capacity(16, 64, steps_per_decode=10.0).decodes(stepped=5) == 1
    assert Capacity(16, 64, steps_per_decode=2.0).decodes(stepped=5) == 2
    assert Capacity(16, 64, steps_per_decode=0.1).decodes(stepped=5) == 4


def test_the_engine_learns_from_its_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pass of the fake takes 10 ms, however many lanes it has."""
    clock = [0.0]
    monkeypatch.setattr("predictor.engine.step_timer.time.perf_counter", lambda: clock[0])
    denoiser = FakeDenoiser()
    denoiser.gate.release(10_000)
    predict = denoiser.predict

    def take_a_second(lanes: Sequence[Lane]) -> torch.Tensor:
        clock[0] += 0.01
        return predict(lanes)

    denoiser.predict = take_a_second  # type: ignore[method-assign]
    engine = StepEngine(denoiser, learning(largest=16), 64)

    async def story() -> None:
        for _ in range(3):
            await asyncio.gather(*(engine.submit(request("any", 30)) for _ in range(8)))

    with contextlib.closing(engine):
        asyncio.run(story())
    assert engine.state.lanes == 16
    assert engine.state.capacity_changes == {"grown": 3, "shrunk": 0}


class FakeEvent:
    """Counts the milliseconds of a GPU that is one record behind."""

    clock = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        FakeEvent.clock += 500
        self.at = FakeEvent.clock

    def query(self) -> bool:
        return FakeEvent.clock > self.at

    def elapsed_time(self, end: FakeEvent) -> float:
        return end.at - self.at


def test_on_a_gpu_events_time_a_pass_and_the_engine_does_not_wait_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "stream")
    noted: list[tuple[str, float]] = []
    timer = StepTimer(lambda name, seconds: noted.append((name, seconds)))
    device = torch.device("cuda")

    with timer.time("first", device):
        pass
    assert noted == []
    with timer.time("second", device):
        FakeEvent.clock += 1
    FakeEvent.clock += 1
    with timer.time("third", device):
        pass
    assert noted == [("first", 0.5), ("second", pytest.approx(0.501))]


def test_a_pass_that_raises_is_not_noted() -> None:
    noted: list[object] = []
    timer = StepTimer(lambda name, seconds: noted.append(name))

    with contextlib.suppress(ValueError), timer.time("any", torch.device("cpu")):
        raise ValueError
    assert noted == []
