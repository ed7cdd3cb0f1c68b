"""Counters of requests, pictures and megapixels, in memory and in a real Redis."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import limits.aio.storage.memory
import pytest

from demo.run import free_port
from predictor.access import rate_storage
from predictor.access.rate_storage import RateStorage
from predictor.access.rates import Rates, Usage
from predictor.access.spending import Spending, charge_pictures
from predictor.edge import wire_format_routes
from predictor.edge.data_plane import DiffusionDataPlane
from predictor.edge.draining import Drain
from predictor.edge.repository import AwaitedModels
from predictor.errors import (
    InvalidRequestError,
    LimitsUnavailableError,
    ModelLoadError,
    ModelUnavailableError,
    RateLimitedError,
)
from predictor.intake.pool import ReaderPool
from predictor.metrics import RATE_LIMIT_STORAGE_FAILURES
from predictor.settings import Settings
from predictor.wire_formats import Message
from predictor.wire_formats.openai_images import ImageEdits, ImageGenerations
from tests.redis_server import RedisServer, needs_redis, redis  # noqa: F401  # a fixture

Scenario = Callable[[RateStorage], Awaitable[None]]
ONE = {"requests": 1, "pictures": 1, "megapixels": 250_000}


class Clock:
    """The wall clock of the storage in memory, at the start of a minute."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        assert self.now % 60 == 0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(limits.aio.storage.memory, "time", clock)
    return clock


@asynccontextmanager
async def opened(url: str = "", timeout_seconds: float = 30) -> AsyncIterator[RateStorage]:
    storage = RateStorage(url, timeout_seconds)
    yield storage
    if url:
        await storage._storage.bridge.get_connection().aclose()  # type: ignore[union-attr]


@pytest.fixture(params=["memory", pytest.param("redis", marks=needs_redis)])
def run(request: pytest.FixtureRequest, clock: Clock) -> Callable[[Scenario], None]:
    """Runs a scenario with the storage in memory, or with Redis."""
    url = request.getfixturevalue("redis").url if request.param == "redis" else ""

    async def inside(scenario: Scenario) -> None:
        async with opened(url) as storage:
            await scenario(storage)

    return lambda scenario: asyncio.run(inside(scenario))


def spending(storage: RateStorage, *rates: Rates, name: str = "alice") -> Spending:
    """A request's spending; the first rates are those of a key, the second of an address."""
    owners = ("key", "address")
    counters = [rate.counters(owner, name) for rate, owner in zip(rates, owners, strict=False)]
    return Spending(storage, [one for group in counters for one in group])


async def admitted(storage: RateStorage, rates: Rates, tries: int, name: str = "alice") -> int:
    """How many of ``tries`` requests of one picture are within the limits."""
    count = 0
    for _ in range(tries):
        try:
            await spending(storage, rates, name=name).charge(ONE)
        except RateLimitedError:
            continue
        count += 1
    return count


@pytest.mark.parametrize(
    ("rates", "most"),
    [
        (Rates(requests=3), 3),
        (Rates(pictures=2), 2),
        (Rates(megapixels=1.3), 5),
        (Rates(requests=4, pictures=3, megapixels=10), 3),
        (Rates(), 10),
    ],
)
def test_a_minute_admits_exactly_the_limit(
    run: Callable[[Scenario], None], rates: Rates, most: int
) -> None:
    async def scenario(storage: RateStorage) -> None:
        assert await admitted(storage, rates, 10) == most
        assert await admitted(storage, rates, 10, "bob") == most

    run(scenario)


def test_concurrent_requests_never_exceed_the_limit(run: Callable[[Scenario], None]) -> None:
    async def scenario(storage: RateStorage) -> None:
        counts = await asyncio.gather(
            *(admitted(storage, Rates(requests=7, pictures=30), 1) for _ in range(40))
        )
        assert sum(counts) <= 7
        assert sum(counts) + await admitted(storage, Rates(requests=7, pictures=30), 10) == 7

    run(scenario)


def test_a_request_that_one_limit_rejects_uses_none_of_the_others(
    run: Callable[[Scenario], None],
) -> None:
    async def scenario(storage: RateStorage) -> None:
        key, address = Rates(requests=5, pictures=5), Rates(pictures=2)
        for _ in range(2):
            await spending(storage, key, address).charge(ONE)
        for _ in range(4):
            with pytest.raises(RateLimitedError, match="2 pictures a minute of this address"):
                await spending(storage, key, address).charge(ONE)

        usages = await storage.usage(key.counters("key", "alice"))
        assert [usage.used for usage in usages] == [2, 2]

    run(scenario)


def test_a_request_that_the_server_rejects_later_gets_everything_back(
    run: Callable[[Scenario], None],
) -> None:
    async def scenario(storage: RateStorage) -> None:
        rates = Rates(requests=1, pictures=1, megapixels=1)
        for _ in range(3):
            one = spending(storage, rates)
            await one.charge({"requests": 1})
            await one.charge({"pictures": 1, "megapixels": 1_000_000})
            await one.refund()
            await one.refund()

        assert await admitted(storage, rates, 3) == 1

    run(scenario)


def test_a_request_beyond_a_whole_minute_is_a_bad_request(
    run: Callable[[Scenario], None],
) -> None:
    async def scenario(storage: RateStorage) -> None:
        rates = Rates(requests=9, pictures=3)
        with pytest.raises(InvalidRequestError, match="more than 3 pictures a minute of this key"):
            await spending(storage, rates).charge({"requests": 1, "pictures": 4})

        assert (await storage.usage(rates.counters("key", "alice")))[0].used == 0

    run(scenario)


@pytest.mark.parametrize("second", [0, 20, 59])
def test_a_request_fits_after_retry_after_and_not_before(clock: Clock, second: int) -> None:
    async def scenario() -> None:
        storage, rates = RateStorage(), Rates(pictures=10)
        clock.now += second
        await spending(storage, rates).charge({"pictures": 10})
        for cost in (1, 4, 10):
            with pytest.raises(RateLimitedError) as raised:
                await spending(storage, rates).charge({"pictures": cost})
            seconds = raised.value.retry_after_seconds
            clock.now += seconds - 2
            with pytest.raises(RateLimitedError):
                await spending(storage, rates).charge({"pictures": cost})
            clock.now += 2
            await spending(storage, rates).charge({"pictures": cost})
            # Use up what became free meanwhile.
            await admitted(storage, Rates(pictures=10), 10)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("usage", "cost", "seconds"),
    [
        # A window of Redis begins with its first request: 30 s until it ends, then it fades.
        (Usage(0, 0, 10, 90), 1, 31),
        (Usage(0, 0, 10, 90), 10, 85),
        (Usage(10, 30, 5, 90), 1, 1),
        (Usage(10, 30, 5, 90), 5, 25),
    ],
)
def test_the_wait_follows_from_both_windows(usage: Usage, cost: int, seconds: int) -> None:
    assert usage.wait_seconds(cost, 10) == seconds


def test_the_clock_may_jump(clock: Clock) -> None:
    async def scenario() -> None:
        storage, rates = RateStorage(), Rates(requests=2)
        assert await admitted(storage, rates, 5) == 2
        clock.now -= 3600
        assert await admitted(storage, rates, 5) == 2
        clock.now += 7200
        assert await admitted(storage, rates, 5) == 2

    asyncio.run(scenario())


def test_the_tightest_limit_is_shown() -> None:
    async def scenario() -> None:
        storage, rates = RateStorage(), Rates(requests=10, pictures=10)
        one = spending(storage, rates)
        await one.charge({"requests": 1, "pictures": 8})

        state = await one.tightest()
        assert state is not None
        assert (state[0].unit, state[1].used) == ("pictures", 8)
        assert await spending(storage).tightest() is None

    asyncio.run(scenario())


def test_requests_of_the_server_itself_are_not_charged() -> None:
    asyncio.run(charge_pictures(100, 10**9))


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://:secret@host",
        "redis://:secret@host:port",
        "redis://host",
        "memcached://h",
    ],
)
def test_an_invalid_url_stops_startup_and_is_not_printed(url: str) -> None:
    with pytest.raises(ModelLoadError, match="rate_limit_storage: the URL") as raised:
        RateStorage(url)

    assert "secret" not in str(raised.value)


@needs_redis
@pytest.mark.parametrize("scheme", ["redis", "async+redis", "valkey"])
def test_a_url_may_name_redis_or_valkey(
    redis: RedisServer,  # noqa: F811
    scheme: str,
) -> None:
    async def scenario() -> None:
        async with opened(redis.url.replace("redis", scheme, 1)) as storage:
            assert await admitted(storage, Rates(requests=2), 5) == 2

    asyncio.run(scenario())


@needs_redis
@pytest.mark.parametrize("when_gone", ["open", "closed"])
@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_a_redis_that_does_not_answer_delays_one_request_only(
    redis: RedisServer,  # noqa: F811
    when_gone: str,
    fault: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "predictor")
    failures = RATE_LIMIT_STORAGE_FAILURES._value.get()

    async def charge(storage: RateStorage) -> str:
        counters = Rates(requests=3).counters("key", "alice")
        one = Spending(storage, counters, "open" if when_gone == "open" else "closed")
        try:
            await one.charge({"requests": 1})
        except LimitsUnavailableError:
            return "closed"
        assert await one.tightest() is None or one._charged
        await one.refund()
        return "open"

    async def scenario() -> None:
        async with opened(redis.url) as storage:
            assert await charge(storage) == "open"
            storage._timeout_seconds = 0.5
            getattr(redis, fault)()
            started = time.monotonic()
            answers = [await charge(storage) for _ in range(50)]
            assert answers == [when_gone] * 50
            # Each try would take half a second.
            assert time.monotonic() - started < 10
            redis.kill()

    asyncio.run(scenario())

    assert RATE_LIMIT_STORAGE_FAILURES._value.get() == failures + 1
    assert [record.message.partition(":")[2][:16] for record in caplog.records] == [
        " does not answer"
    ]


def test_a_request_without_limits_does_not_ask_the_storage(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot know whether a Redis that was gone answers again."""
    caplog.set_level(logging.INFO, "predictor")
    monkeypatch.setattr(rate_storage, "_SECONDS_BETWEEN_TRIES", 0.0)

    async def scenario() -> None:
        async with opened(f"redis://127.0.0.1:{free_port()}") as storage:
            assert await admitted(storage, Rates(requests=1), 2) == 2
            await spending(storage).charge({"requests": 1})
            assert await spending(storage).tightest() is None

    asyncio.run(scenario())

    assert len(caplog.records) == 1


@needs_redis
def test_limits_apply_again_once_redis_is_back(
    redis: RedisServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "predictor")
    monkeypatch.setattr(rate_storage, "_SECONDS_BETWEEN_TRIES", 0.0)

    async def scenario() -> None:
        async with opened(redis.url) as storage:
            assert await admitted(storage, Rates(requests=2), 5) == 2
            redis.kill()
            assert await admitted(storage, Rates(requests=2), 5) == 5
            redis.start()
            assert await admitted(storage, Rates(requests=2), 5) == 2

    asyncio.run(scenario())

    assert "answers again" in caplog.text


def test_a_form_that_is_read_for_its_model_costs_a_request_even_if_it_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a caller could make the server read forms without any limit."""
    form = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % part
        for part in [
            (b"prompt", b"", b"a star"),
            (b"image", b'; filename="a"', b"," * 20_000),
        ]
    )
    headers = {"content-type": "multipart/form-data; boundary=x"}
    message = Message(ImageEdits(), form + b"--x--\r\n", headers)
    awaited = DiffusionDataPlane(AwaitedModels(), Drain())

    async def used_after(message: Message) -> int:
        async with opened() as storage:
            request = spending(storage, Rates(requests=2))
            request.begin()
            await request.charge({"requests": 1})
            with pytest.raises(ModelUnavailableError):
                await wire_format_routes.ModelNames(awaited, Settings(), "a").of(message)
            await request.refund()
            state = await request.tightest()
            assert state
            return state[1].used

    small = Message(ImageGenerations(), b'{"prompt": "a star"}')
    readers = ReaderPool()
    monkeypatch.setattr(wire_format_routes, "READERS", readers)
    try:
        assert asyncio.run(used_after(message)) == 1
        assert asyncio.run(used_after(small)) == 0
    finally:
        readers.close()
