"""Measuring the capacity: the best batch size, and when an idle engine measures again."""

from __future__ import annotations

import pytest
import torch

from predictor.engine import Admission
from predictor.engine.capacity import (
    Capacity,
    find_best_batch,
    line_through,
    measure_capacity,
    measure_whole_batch,
)
from predictor.engine.inbox import Inbox, Ticket
from predictor.engine.second_measurement import SecondMeasurement
from predictor.engine.service_times import ServiceTimes
from predictor.engine.watchdog import Watchdog
from tests.predictor.fake_denoiser import FakeDenoiser, request


def empty_inbox() -> Inbox:
    times = ServiceTimes(Capacity(2, 64, steps_per_decode=1.0))
    return Inbox(Admission(1, 60, times))


@pytest.mark.parametrize(
    ("seconds", "max_size", "best"),
    [
        ({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}, 8, 8),
        ({1: 1.0, 2: 1.1, 4: 2.15, 8: 4.3}, 8, 2),
        ({1: 1.0, 2: 1.98, 4: 3.96}, 32, 1),
        ({1: 1.0, 2: 2.5, 4: 2.0, 8: 4.0, 16: 8.0}, 32, 4),
        ({1: 1.0, 2: 1.0, 4: 1.0}, 7, 4),
    ],
)
def test_the_batch_doubles_while_throughput_grows(
    seconds: dict[int, float], max_size: int, best: int
) -> None:
    assert find_best_batch(seconds.__getitem__, max_size) == (best, seconds[best])


def test_out_of_memory_ends_the_search() -> None:
    def seconds_of(size: int) -> float:
        if size > 4:
            raise torch.OutOfMemoryError
        return 1.0

    assert find_best_batch(seconds_of, 64) == (4, 1.0)


def test_a_denoiser_is_measured_without_a_request() -> None:
    denoiser = FakeDenoiser(memory_in_lanes=4)
    denoiser.gate.release(1_000)

    capacity = measure_capacity(denoiser, request("any"), max_lanes=16)

    assert 2 <= capacity.lanes <= 4
    assert capacity.latent_pixels == 64
    assert capacity.steps_per_decode > 0
    assert capacity.has_times


def test_the_seconds_of_a_pass_grow_with_its_lanes() -> None:
    fixed, lane = line_through(alone=1.2, together=1.6, pairs=2)
    assert (fixed, lane) == (pytest.approx(0.8), pytest.approx(0.2))
    assert line_through(alone=1.0, together=1.0, pairs=1) == (0.0, 0.5)
    assert line_through(alone=1.0, together=0.9, pairs=4) == (0.9, 0.0)

    capacity = Capacity(4, 64, steps_per_decode=1.0, fixed_seconds=fixed, lane_seconds=lane)
    assert capacity.step_seconds(2) == pytest.approx(1.2)
    assert capacity.step_seconds(4) == pytest.approx(1.6)
    # Twice the lanes that fit take two passes.
    assert capacity.step_seconds(8) == pytest.approx(3.2)
    assert capacity.decode_seconds == pytest.approx(0.8)


def test_the_log_states_the_capacity_in_words() -> None:
    assert str(Capacity(16, 64, steps_per_decode=1.96)) == (
        "up to 16 lanes in a forward pass, decoding a picture takes as long as 2.0 steps"
    )


def test_a_slow_decoder_gets_one_picture_and_a_fast_one_a_few() -> None:
    assert Capacity(16, 64, steps_per_decode=10.0).decodes(stepped=5) == 1
    assert Capacity(16, 64, steps_per_decode=2.0).decodes(stepped=5) == 2
    assert Capacity(16, 64, steps_per_decode=0.1).decodes(stepped=5) == 4


def test_the_first_run_of_a_size_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("predictor.engine.capacity.time.perf_counter", lambda: clock[0])
    denoiser = FakeDenoiser()
    denoiser.gate.release(1_000)
    predict = denoiser.predict
    seen: set[int] = set()

    def predict_in_time(latents: torch.Tensor, *others: object) -> torch.Tensor:
        # Every step takes the same time, except for the first of its size.
        clock[0] += 0.1 if len(latents) in seen else 10.0
        seen.add(len(latents))
        return predict(latents, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(denoiser, "predict", predict_in_time)

    assert measure_capacity(denoiser, request("any"), max_lanes=16).lanes == 16


class StoppedError(Exception):
    pass


def test_a_measurement_can_be_interrupted_before_each_run() -> None:
    denoiser = FakeDenoiser()
    denoiser.gate.release(1_000)

    def stop_at_the_third() -> None:
        if len(denoiser.lanes) == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        measure_capacity(denoiser, request("any"), 16, stop_at_the_third)
    assert len(denoiser.lanes) == 2


def test_a_measurement_of_whole_pictures_can_be_interrupted_at_a_step() -> None:
    steps = []

    class Pipeline:
        def generate(self, requests, on_step) -> None:  # type: ignore[no-untyped-def]
            for step in range(1, 10):
                steps.append(step)
                on_step(step, 9)

    def stop_at_the_third() -> None:
        if len(steps) == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        measure_whole_batch(Pipeline(), request("any"), 4, stop_at_the_third)  # type: ignore[arg-type]
    assert steps == [1, 2, 3]


def test_an_idle_engine_measures_once_again() -> None:
    inbox, measured, used = empty_inbox(), iter([7, 8]), []

    def use(found: int) -> None:
        used.append(found)
        inbox.put(Ticket(request("any"), None))

    again = SecondMeasurement(lambda before_run: next(measured), idle_seconds=0)
    again.wait(inbox, Watchdog(0, print), use)
    inbox.take(2, 1)
    inbox.put(Ticket(request("any"), None))
    again.wait(inbox, Watchdog(0, print), use)

    assert used == [7]


def test_the_engine_does_not_measure_while_a_request_waits() -> None:
    inbox = empty_inbox()
    inbox.put(Ticket(request("any"), None))

    again = SecondMeasurement(lambda before_run: pytest.fail("measured"), idle_seconds=0)
    again.wait(inbox, Watchdog(0, print), print)


def test_a_request_interrupts_the_measurement_which_restarts_when_idle() -> None:
    inbox, runs, used = empty_inbox(), [], []

    def measure(before_run) -> int:  # type: ignore[no-untyped-def]
        for run in range(3):
            before_run()
            runs.append(run)
            if len(runs) == 1:
                inbox.put(Ticket(request("any"), None))
        return 5

    def use(found: int) -> None:
        used.append(found)
        inbox.close()

    again = SecondMeasurement(measure, idle_seconds=0)
    again.wait(inbox, Watchdog(0, print), use)
    assert (runs, used) == ([0], [])

    inbox.take(2, 1)
    again.wait(inbox, Watchdog(0, print), use)
    assert (runs, used) == ([0, 0, 1, 2], [5])


def test_a_second_measurement_raises_the_bound_and_never_lowers_it() -> None:
    capacity = Capacity(4, 64, steps_per_decode=2.0)
    capacity.improve(Capacity(2, 64, steps_per_decode=1.0))
    assert capacity == Capacity(4, 64, steps_per_decode=2.0)
    capacity.improve(Capacity(16, 64, steps_per_decode=1.0))
    assert capacity == Capacity(16, 64, steps_per_decode=1.0)


def test_a_second_measurement_does_not_raise_a_bound_set_by_out_of_memory() -> None:
    capacity = Capacity(4, 64, steps_per_decode=2.0, out_of_memory=1)
    capacity.improve(Capacity(16, 64, steps_per_decode=2.0))
    assert capacity.lanes == 4
