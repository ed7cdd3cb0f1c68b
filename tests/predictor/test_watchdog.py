"""How long a piece of work may take before the watchdog reports it."""

from __future__ import annotations

import logging
import time

import pytest

from predictor.engine import watchdog
from predictor.engine.watchdog import Watchdog
from tests.waiting import wait_until


class Clock:
    """Replaces the monotonic clock."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(watchdog, "time", made)
    return made


def run_for(dog: Watchdog, clock: Clock, seconds: float, *details: int) -> None:
    with dog.watch("step", *details):
        clock.now += seconds


def seconds_until_stall(dog: Watchdog, clock: Clock, *details: int) -> float:
    with dog.watch("step", *details):
        started = clock.now
        while not dog.stall:
            clock.now += 1
        return clock.now - started - 1


def test_work_of_a_new_kind_may_take_the_setting(clock: Clock) -> None:
    dog = Watchdog(600, print)
    run_for(dog, clock, 1, 64)

    assert seconds_until_stall(dog, clock, 128) == 600


@pytest.mark.parametrize(
    ("setting", "seconds", "expected"), [(600, 0.125, 120), (600, 50, 1000), (30, 0.125, 30)]
)
def test_repeated_work_may_take_a_multiple_of_its_longest_time(
    clock: Clock, setting: float, seconds: float, expected: float
) -> None:
    dog = Watchdog(setting, print)
    run_for(dog, clock, seconds)
    run_for(dog, clock, seconds / 2)

    assert seconds_until_stall(dog, clock) == expected


def test_a_hang_does_not_raise_the_bound(clock: Clock) -> None:
    dog = Watchdog(600, print)
    run_for(dog, clock, 1)
    run_for(dog, clock, 5000)

    assert seconds_until_stall(dog, clock) == 120


def test_progress_restarts_the_clock(clock: Clock) -> None:
    dog = Watchdog(600, print)
    with dog.watch("call"):
        for _ in range(10):
            clock.now += 100
            assert dog.stall == ""
            dog.note_progress()
        clock.now += 1999
        assert dog.stall == ""
        clock.now += 2
        assert dog.stall == "a call takes longer than 2000 s"
    assert dog.stall == ""


def test_an_idle_engine_never_stalls(clock: Clock) -> None:
    dog = Watchdog(600, print)
    run_for(dog, clock, 1)
    clock.now += 1e6

    assert dog.stall == ""


def test_zero_turns_it_off(clock: Clock) -> None:
    dog = Watchdog(0, print)
    with dog.watch("step"):
        clock.now += 1e6
        assert dog.stall == ""


def test_a_hang_is_logged_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    dog = Watchdog(0.04, lambda: calls.append("stalled"))
    caplog.set_level(logging.INFO)
    dog.start()
    with dog.watch("step"):
        wait_until(lambda: bool(calls))
        time.sleep(0.1)
    wait_until(lambda: len(caplog.records) == 2)
    dog.close()

    assert calls == ["stalled"]
    assert [record.message for record in caplog.records] == [
        "the engine hangs: a step takes longer than 0 s",
        "the engine no longer hangs",
    ]
