"""The measured seconds of a step: noise, lasting changes, kinds of pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from predictor.engine.service_times import ServiceTimes
from predictor.requests import GenerationRequest

REQUEST = GenerationRequest("any", "", 0, 64, 64, 20, 2.0, "euler")
LARGE = replace(REQUEST, width=128)


@dataclass
class Pictures:
    """A workload of pictures; a step takes ``fixed`` seconds and 0.1 s for each of them."""

    slots: int = 4
    joins_midway: bool = True
    has_times: bool = True
    decode_seconds: float = 0.0
    fixed: float = 0.0

    def size(self, request: GenerationRequest) -> float:
        return request.width / 64

    def step_seconds(self, size: float) -> float:
        return self.fixed + 0.1 * size


def observe(times: ServiceTimes, request: GenerationRequest, seconds: float, turns: int) -> None:
    for _ in range(turns):
        times.observe([request] * 4, seconds)


def test_without_a_measurement_the_workload_says_how_long_a_round_takes() -> None:
    times = ServiceTimes(Pictures(fixed=1.0))

    assert times.round_seconds([REQUEST], 1) == pytest.approx(1.1)
    assert times.round_seconds([REQUEST] * 4, 4) == pytest.approx(1.4)
    # Four pictures, half of them large.
    assert times.round_seconds([REQUEST, LARGE], 4) == pytest.approx(1.6)


def test_a_workload_without_times_is_unknown_until_the_first_turns() -> None:
    times = ServiceTimes(Pictures(has_times=False))
    assert times.round_seconds([REQUEST], 1) == 0

    observe(times, REQUEST, 0.8, 1)

    assert times.round_seconds([REQUEST] * 4, 4) == pytest.approx(0.8)
    assert times.round_seconds([REQUEST], 1) == pytest.approx(0.2)


def test_a_lasting_change_of_speed_is_adopted() -> None:
    times = ServiceTimes(Pictures())
    observe(times, REQUEST, 4 * 0.1 * 3, 20)
    assert times.round_seconds([REQUEST], 1) == pytest.approx(0.3, rel=0.02)

    observe(times, REQUEST, 4 * 0.1, 20)
    assert times.round_seconds([REQUEST], 1) == pytest.approx(0.1, rel=0.05)


def test_one_slow_turn_changes_the_estimate_by_a_quarter_at_most() -> None:
    times = ServiceTimes(Pictures())
    observe(times, REQUEST, 0.4, 10)
    observe(times, REQUEST, 400, 1)

    assert times.round_seconds([REQUEST], 1) == pytest.approx(0.125)


def test_short_turns_are_measured_together() -> None:
    """On a GPU, turns return at once and one of them waits for all."""
    times = ServiceTimes(Pictures())
    for _ in range(100):
        for seconds in (0.0, 0.0, 0.0, 1.6):
            observe(times, REQUEST, seconds, 1)

    assert times.round_seconds([REQUEST] * 4, 4) == pytest.approx(0.4)


def test_each_kind_has_its_own_speed_and_a_new_one_the_average() -> None:
    times = ServiceTimes(Pictures())
    observe(times, LARGE, 4 * 0.2 * 3, 30)

    assert times.round_seconds([LARGE], 1) == pytest.approx(0.6, rel=0.01)
    assert times.round_seconds([REQUEST], 1) == pytest.approx(0.3, rel=0.01)
    observe(times, REQUEST, 4 * 0.1, 30)
    assert times.round_seconds([REQUEST], 1) == pytest.approx(0.1, rel=0.01)
    assert times.round_seconds([LARGE], 1) == pytest.approx(0.6, rel=0.01)


def test_the_number_of_kinds_is_bounded() -> None:
    times = ServiceTimes(Pictures())
    for width in range(64, 64 + 8 * 200, 8):
        observe(times, replace(REQUEST, width=width), 1.0, 1)

    assert len(times._kinds) == 64


def test_decoding_counts_once_for_each_picture() -> None:
    times = ServiceTimes(Pictures(decode_seconds=2.0))

    # A picture of 20 steps is decoded in one of 20 rounds.
    assert times.round_seconds([REQUEST], 1) == pytest.approx(0.1 + 2 / 20)
    for _ in range(20):
        times.observe([REQUEST] * 4, 0.4 + 2.0, decoded=1)
    assert times.round_seconds([REQUEST], 1) == pytest.approx(0.2)


def test_a_scheduler_of_two_passes_per_step_takes_twice_as_long() -> None:
    heun = replace(REQUEST, scheduler="heun")
    times = ServiceTimes(Pictures())
    times.observe_total(heun, 39)

    assert times.steps_of(heun) == 39
    assert times.steps_of(replace(heun, num_inference_steps=40)) == 78
    assert times.steps_of(REQUEST) == 20
