"""Load over HTTP: closed loops of users, and Poisson arrivals."""

from __future__ import annotations

import asyncio
import io
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image

from demo.shapes import all_scenes


@dataclass(frozen=True)
class Outcome:
    """One request: its latency and its time to the first step, in seconds, and any error."""

    seconds: float
    first_step_seconds: float
    error: str | None


@dataclass(frozen=True)
class Run:
    """All requests of a load, and the seconds from the first request to the last response."""

    outcomes: list[Outcome]
    seconds: float


Body = dict[str, Any]
Ask = Callable[[Body], Awaitable[Outcome]]


def bodies(steps: Sequence[int], seed: int = 0) -> Iterator[Body]:
    """Endless requests, each with one of ``steps``; reproducible for a ``seed``."""
    rng = random.Random(seed)
    for index, scene in enumerate(itertools.cycle(all_scenes())):
        yield {
            "prompt": scene.prompt,
            "parameters": {"seed": index, "num_inference_steps": rng.choice(list(steps))},
        }


def closed_loop(address: str, requests: Iterator[Body], users: int, rounds: int) -> Run:
    """Each user sends ``rounds`` requests, the next one as soon as the last is answered."""

    async def load(ask: Ask) -> list[Outcome]:
        async def user() -> list[Outcome]:
            return [await ask(next(requests)) for _ in range(rounds)]

        outcomes = await asyncio.gather(*(user() for _ in range(users)))
        return list(itertools.chain.from_iterable(outcomes))

    return _run(address, load)


def poisson(address: str, requests: Iterator[Body], rate: float, seconds: float, seed: int) -> Run:
    """Poisson arrivals of ``rate`` requests a second; reproducible for a ``seed``."""

    async def load(ask: Ask) -> list[Outcome]:
        rng = random.Random(seed)
        sent = []
        arrival, begun = 0.0, time.perf_counter()
        while (arrival := arrival + rng.expovariate(rate)) < seconds:
            await asyncio.sleep(begun + arrival - time.perf_counter())
            sent.append(asyncio.ensure_future(ask(next(requests))))
        return await asyncio.gather(*sent)

    return _run(address, load)


def short_among_long(
    address: str, long: Iterator[Body], short: Iterator[Body], users: int, times: int
) -> list[Outcome]:
    """The outcomes of ``short`` requests while ``users`` send ``long`` ones without a pause."""

    async def load(ask: Ask) -> list[Outcome]:
        async def user() -> None:
            while True:
                await ask(next(long))

        crowd = [asyncio.ensure_future(user()) for _ in range(users)]
        await asyncio.sleep(1)
        outcomes = []
        for _ in range(times):
            outcomes.append(await ask(next(short)))
            await asyncio.sleep(0.5)
        for one in crowd:
            one.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
        return outcomes

    return _run(address, load).outcomes


def _run(address: str, load: Callable[[Ask], Coroutine[Any, Any, list[Outcome]]]) -> Run:
    async def main() -> Run:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=None, limits=limits) as client:
            begun = time.perf_counter()
            outcomes = await load(lambda body: _ask(client, address, body))
            return Run(outcomes, time.perf_counter() - begun)

    return asyncio.run(main())


async def _ask(client: httpx.AsyncClient, address: str, body: Body) -> Outcome:
    begun = time.perf_counter()
    try:
        answer = await client.post(address, json=body)
    except httpx.HTTPError as error:
        return Outcome(time.perf_counter() - begun, 0.0, repr(error))
    seconds = time.perf_counter() - begun
    if answer.status_code != 200:
        return Outcome(seconds, 0.0, f"{answer.status_code} {answer.text[:100]}")
    Image.open(io.BytesIO(answer.content)).verify()
    return Outcome(seconds, float(answer.headers["x-first-step-seconds"]), None)
