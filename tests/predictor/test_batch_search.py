"""The search for the best batch size: gains, noise, lasting changes and demand."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from predictor.engine.batch_search import BatchSearch
from predictor.engine.batch_searches import BatchSearches, Kind, Start

Seconds = Callable[[int], float]


def steps(search: BatchSearch, seconds_of: Seconds, count: int, demand: int = 100) -> None:
    for _ in range(count):
        size = min(search.limit(demand), demand)
        search.observe(size, seconds_of(size))


def table(**seconds: float) -> Seconds:
    return lambda size: seconds[f"s{size}"]


@pytest.mark.parametrize(
    ("seconds", "largest", "best"),
    [
        (table(s1=1.0, s2=1.0, s4=1.0, s8=1.0), 8, 8),
        (table(s1=1.0, s2=1.1, s4=2.15, s8=4.3), 8, 2),
        (table(s1=1.0, s2=1.98, s4=3.96), 32, 1),
        (table(s1=1.0, s2=2.5, s4=2.0, s8=4.0, s16=8.0), 32, 4),
        (table(s1=1.0, s2=1.0, s4=1.0), 7, 4),
    ],
)
def test_the_batch_doubles_while_throughput_grows(
    seconds: Seconds, largest: int, best: int
) -> None:
    search = BatchSearch(1, largest)
    for _ in range(200):
        if search.is_settled:
            break
        steps(search, seconds, 1)

    assert search.is_settled
    assert search.best == best


def test_the_first_run_of_a_size_does_not_count() -> None:
    seen: set[int] = set()

    def seconds(size: int) -> float:
        if size in seen:
            return 0.1
        seen.add(size)
        return 10.0

    search = BatchSearch(1, 8)
    steps(search, seconds, 100)
    assert search.best == 8


def test_what_waits_runs_together_until_the_first_search_shows_that_it_is_not_worth_it() -> None:
    search = BatchSearch(2, 64)

    assert search.limit(3) == 4
    steps(search, lambda size: size / 1000, 200)
    assert search.best == 2
    assert search.limit(3) == 2


def noisy(seed: int, seconds_of: Seconds) -> Seconds:
    """Each batch takes up to 30 % longer, and one of twenty takes five times as long."""
    random_numbers = random.Random(seed)

    def seconds(size: int) -> float:
        slowness = 1 + 0.3 * random_numbers.random()
        return seconds_of(size) * (5 if random_numbers.random() < 0.05 else slowness)

    return seconds


@pytest.mark.parametrize("seed", range(10))
def test_noise_does_not_change_the_result(seed: int) -> None:
    # Throughput doubles up to 8 and is constant above.
    search = BatchSearch(1, 64)
    steps(search, noisy(seed, lambda size: max(8, size) / 1000), 500)

    assert search.best == 8


@pytest.mark.parametrize("seed", range(5))
def test_a_size_between_two_bounds_does_not_change_back_and_forth(seed: int) -> None:
    """A gain of 7 % neither grows nor shrinks a batch; noise may move it a few times, no more."""
    search = BatchSearch(1, 2)
    steps(search, noisy(seed, lambda size: 1.0 if size == 1 else 2 / 1.07), 20_000)

    assert search.changes.total() <= 4


def test_a_machine_that_was_busy_at_first_is_searched_again() -> None:
    search = BatchSearch(1, 16)
    steps(search, float, 60)
    assert (search.best, search.is_settled) == (1, True)

    steps(search, lambda size: 1.0, 300)
    assert search.best == 16


def test_a_batch_that_no_longer_pays_off_shrinks() -> None:
    search = BatchSearch(16, 16, is_settled=True)
    steps(search, float, 300)

    assert search.best == 1
    assert search.changes == {"grown": 0, "shrunk": 4}


def test_a_change_of_speed_during_a_comparison_affects_both_sizes() -> None:
    """The machine becomes three times slower every few batches, and faster again."""
    turn = 0

    def seconds(size: int) -> float:
        nonlocal turn
        turn += 1
        return size * (3.0 if turn // 6 % 2 else 1.0)

    search = BatchSearch(1, 64)
    steps(search, seconds, 300)
    assert search.best == 1


def test_memory_bounds_the_search() -> None:
    search = BatchSearch(1, 64)
    steps(search, lambda size: 1.0, 30)
    search.shrink_to(4)
    steps(search, lambda size: 1.0, 200)

    assert search.best == 4


def test_the_number_of_kinds_is_bounded() -> None:
    searches = BatchSearches(Start(1, 8), 1, "pictures")
    for key in range(200):
        kind = Kind(key, 1.0, "any")
        searches.observe(kind, searches.limit(kind, 8), 1.0)

    assert len(searches._kinds) == 64


def test_a_kind_that_no_longer_runs_does_not_hold_places() -> None:
    searches = BatchSearches(Start(1, 64), 1, "pictures")
    fast, slow = Kind("fast", 1.0, "fast"), Kind("slow", 1.0, "slow")
    for _ in range(200):
        searches.observe(fast, min(searches.limit(fast, 64), 64), 1.0)
    assert searches.wanted == 64
    for _ in range(300):
        size = min(searches.limit(slow, 64), 64)
        searches.observe(slow, size, float(size))

    assert searches.wanted < 64


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        # A pass takes half a second a picture, so there are few samples of larger ones.
        (lambda lanes: 0.05 + lanes / 4, 2),
        # A GPU that is busy with eight lanes.
        (lambda lanes: max(0.021, 0.0027 * lanes), 8),
    ],
)
def test_the_search_takes_at_most_a_minute_of_work(seconds: Seconds, best: int, seed: int) -> None:
    random_numbers = random.Random(seed)
    search, worked = BatchSearch(2, 64, smallest=2), 0.0
    while not search.is_settled:
        size = search.limit(64)
        taken = seconds(size) * (1 + 0.3 * random_numbers.random())
        search.observe(size, taken)
        worked += taken

    assert search.best == best
    assert worked < 60
