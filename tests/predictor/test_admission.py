"""Which calls an engine accepts, and when a refused caller may come back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from predictor.engine import admission as module
from predictor.engine.admission import Admission
from predictor.engine.inbox import Ticket
from predictor.engine.service_times import ServiceTimes
from predictor.errors import OverloadedError
from tests.predictor.test_service_times import REQUEST, Pictures


def admission(
    length: int = 4, seconds: float = 1_000, workload: Pictures | None = None
) -> Admission:
    return Admission(length, seconds, ServiceTimes(workload or Pictures()))


@contextmanager
def unfinished(
    engine: Admission,
    count: int,
    steps_left: int | None = None,
) -> Iterator[None]:
    """Pictures that wait, or that have ``steps_left``."""
    with ExitStack() as stack:
        for _ in range(count):
            ticket = Ticket(REQUEST, None)
            stack.enter_context(engine.entered(ticket))
            if steps_left is not None:
                ticket.report_step(20 - steps_left, 20)
        yield


def refusal(engine: Admission, pictures: int = 1, timeout: float | None = None) -> OverloadedError:
    with (
        pytest.raises(OverloadedError) as refused,
        engine.reserve([replace(REQUEST) for _ in range(pictures)], timeout),
    ):
        raise AssertionError("accepted")
    return refused.value


def test_a_call_is_accepted_whole_or_refused_whole() -> None:
    engine = admission(length=4)
    with unfinished(engine, 5):
        error = refusal(engine, pictures=4)
        assert "room for 3 pictures, and the request has 4" in str(error)
        # Nothing of the refused call remains.
        with engine.reserve([replace(REQUEST) for _ in range(3)]):
            assert "4 pictures are waiting already" in str(refusal(engine))


def test_a_reserved_place_is_not_given_away_and_is_free_after_the_call() -> None:
    engine = admission(length=1)
    request, other = replace(REQUEST), replace(REQUEST)
    with unfinished(engine, 4):
        with engine.reserve([request]):
            with pytest.raises(OverloadedError), engine.entered(Ticket(other, None)):
                pass
            with engine.entered(Ticket(request, None)):
                refusal(engine)
        with engine.entered(Ticket(other, None)):
            pass


def test_an_idle_engine_accepts_any_call() -> None:
    engine = admission(length=1, seconds=0.1)

    with engine.reserve([replace(REQUEST) for _ in range(16)]):
        refusal(engine)


def test_the_wait_is_bounded_in_seconds() -> None:
    # A round of four takes 0.4 s: places are free after 10 rounds, and then after 30.
    engine = admission(length=100, seconds=5)
    with unfinished(engine, 4, steps_left=10):
        assert engine.queue_seconds == pytest.approx(4)
        with unfinished(engine, 3):
            assert engine.queue_seconds == pytest.approx(4)
            with unfinished(engine, 1):
                assert engine.queue_seconds == pytest.approx(12)
                error = refusal(engine)
    assert "would wait for 12.0 s; the limit is 5 s" in str(error)
    # There is room in 7 s; the jitter adds up to 2 s.
    assert 7 <= error.retry_after_seconds <= 9


def test_a_large_call_waits_for_its_first_picture_only() -> None:
    engine = admission(length=100, seconds=5)

    with unfinished(engine, 4, steps_left=10), engine.reserve([REQUEST] * 16):
        pass


def test_retry_after_is_when_there_is_room() -> None:
    engine = admission(length=1)
    with unfinished(engine, 2, steps_left=5), unfinished(engine, 2, steps_left=15):
        with unfinished(engine, 1):
            # A round takes 0.4 s, and the first picture is done after 5 rounds.
            assert 2 <= refusal(engine).retry_after_seconds <= 4
        # Two of three places are free after 10 rounds.
        assert 2 <= refusal(engine, pictures=3).retry_after_seconds <= 4
        # And four after 15.
        assert 6 <= refusal(engine, pictures=4).retry_after_seconds <= 8


def test_refused_callers_do_not_return_together() -> None:
    engine = admission(length=1)
    with unfinished(engine, 5):
        seconds = {round(refusal(engine).retry_after_seconds) for _ in range(100)}

    assert len(seconds) >= 3


def test_before_the_first_measurement_only_the_number_counts() -> None:
    engine = admission(length=1, seconds=0.001, workload=Pictures(has_times=False))
    with unfinished(engine, 4):
        assert engine.queue_seconds == 0
        with engine.reserve([REQUEST], timeout=0.001):
            pass
        with unfinished(engine, 1):
            assert 5 <= refusal(engine).retry_after_seconds <= 7


@pytest.mark.parametrize(
    ("ahead", "pictures", "accepted", "refused"),
    [(1, 1, 4.1, 3.9), (3, 1, 8.1, 7.9), (8, 1, 24.1, 23.9), (4, 8, 24.1, 23.9)],
)
def test_a_call_that_cannot_meet_its_timeout_is_refused(
    ahead: int, pictures: int, accepted: float, refused: float
) -> None:
    """Two pictures of 20 steps take 4 s together, and four take 8 s."""
    engine = admission(length=100)
    with unfinished(engine, ahead):
        with engine.reserve([replace(REQUEST) for _ in range(pictures)], accepted):
            pass
        error = refusal(engine, pictures, timeout=refused)

    assert f"would take about {refused + 0.1:.1f} s, and timeout is {refused:g} s" in str(error)
    assert 0.1 <= error.retry_after_seconds <= 2.2


def test_an_idle_engine_tries_a_call_that_its_estimate_would_refuse() -> None:
    """The last measurement may have been slow: a picture of 20 steps takes 2 s by it."""
    engine = admission(length=100)

    with engine.reserve([replace(REQUEST) for _ in range(8)], timeout=0.001):
        refusal(engine, timeout=1)
    with engine.reserve([REQUEST], timeout=0.001):
        pass


@pytest.mark.parametrize(("joins_midway", "seconds"), [(True, 0), (False, 2)])
def test_a_picture_waits_for_a_whole_call_to_end(joins_midway: bool, seconds: float) -> None:
    engine = admission(length=100, workload=Pictures(joins_midway=joins_midway))

    # Two places are free, but a whole call of two pictures runs for 10 more rounds of 0.2 s.
    with unfinished(engine, 2, steps_left=10):
        assert engine.queue_seconds == pytest.approx(seconds)


def test_a_place_is_free_when_few_enough_pictures_are_left() -> None:
    engine = admission(length=100)
    # Two wait for the decoder.
    with unfinished(engine, 2, steps_left=0), unfinished(engine, 4, steps_left=10):
        assert engine.queue_seconds == pytest.approx(4)


def test_a_picture_that_is_over_does_not_count_in_the_wait() -> None:
    engine = admission()
    over = Ticket(REQUEST, None)
    over.future.cancel()
    with unfinished(engine, 3), engine.entered(over):
        assert engine.queue_seconds == 0
        with unfinished(engine, 1):
            assert engine.queue_seconds == pytest.approx(8)


def test_many_refusals_share_a_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, forecasts = admission(length=1), []
    forecast = engine._forecast
    monkeypatch.setattr(engine, "_forecast", lambda new: forecasts.append(new) or forecast(new))
    monkeypatch.setattr(module, "_FRESH_SECONDS", 3600)
    with unfinished(engine, 5):
        forecasts.clear()
        for _ in range(100):
            refusal(engine)
        assert len(forecasts) == 1
    with unfinished(engine, 1):
        assert engine.queue_seconds == 0
