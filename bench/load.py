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
    """One request: its latency and its time to the first step, in seconds, and any error.

    ``status`` is 0 without an answer. ``ended`` is in seconds after the start of the load.
    ``retry_after`` is the answer's header, ``steps`` the denoising steps of the picture, and
    ``previews`` the number of its previews.
    """

    seconds: float
    first_step_seconds: float
    error: str | None
    status: int = 200
    ended: float = 0.0
    retry_after: float = 0.0
    steps: int = 0
    previews: int = 0


@dataclass(frozen=True)
class Run:
    """All requests of a load, and the seconds from the first request to the last response."""

    outcomes: list[Outcome]
    seconds: float


Body = dict[str, Any]
Ask = Callable[[Body], Awaitable[Outcome]]
# With a client, the address, and the start of the load.
AskOne = Callable[[httpx.AsyncClient, str, Body, float], Awaitable[Outcome]]


def bodies(steps: Sequence[int], seed: int = 0) -> Iterator[Body]:
    """Endless requests, each with one of ``steps``; reproducible for a ``seed``."""
    rng = random.Random(seed)
    for index, scene in enumerate(itertools.cycle(all_scenes())):
        yield {
            "prompt": scene.prompt,
            "parameters": {"seed": index, "num_inference_steps": rng.choice(list(steps))},
        }


def closed_loop(
    address: str, requests: Iterator[Body], users: int, rounds: int, ask_one: AskOne | None = None
) -> Run:
    """Each user sends ``rounds`` requests, the next one as soon as the last is answered.

    ``ask_one`` replaces the request for a bare picture.
    """

    async def load(ask: Ask) -> list[Outcome]:
        async def user() -> list[Outcome]:
            return [await ask(next(requests)) for _ in range(rounds)]

        outcomes = await asyncio.gather(*(user() for _ in range(users)))
        return list(itertools.chain.from_iterable(outcomes))

    return _run(address, load, ask_one)


def patient_users(address: str, requests: Iterator[Body], users: int, seconds: float) -> Run:
    """Each user sends one request after another; a refused user waits for ``retry-after``."""

    async def load(ask: Ask) -> list[Outcome]:
        deadline = time.perf_counter() + seconds
        rng = random.Random(0)

        async def user() -> list[Outcome]:
            outcomes = []
            await asyncio.sleep(rng.uniform(0, 1))  # independent users do not start together
            while time.perf_counter() < deadline:
                outcomes.append(await ask(next(requests)))
                pause = min(outcomes[-1].retry_after, deadline - time.perf_counter())
                await asyncio.sleep(max(0.0, pause))
            return outcomes

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


def _run(
    address: str,
    load: Callable[[Ask], Coroutine[Any, Any, list[Outcome]]],
    ask_one: AskOne | None = None,
) -> Run:
    send = ask_one or _ask

    async def main() -> Run:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=None, limits=limits) as client:
            begun = time.perf_counter()
            outcomes = await load(lambda body: send(client, address, body, begun))
            return Run(outcomes, time.perf_counter() - begun)

    return asyncio.run(main())


async def _ask(client: httpx.AsyncClient, address: str, body: Body, load_begun: float) -> Outcome:
    begun = time.perf_counter()
    try:
        answer = await client.post(address, json=body)
    except httpx.HTTPError as error:
        ended = time.perf_counter()
        return Outcome(ended - begun, 0.0, repr(error), 0, ended - load_begun)
    ended = time.perf_counter()
    seconds, status = ended - begun, answer.status_code
    if status != 200:
        retry_after = float(answer.headers.get("retry-after", 0))
        error = f"{status} {answer.text[:100]}"
        return Outcome(seconds, 0.0, error, status, ended - load_begun, retry_after)
    Image.open(io.BytesIO(answer.content)).verify()
    first_step_seconds = float(answer.headers["x-first-step-seconds"])
    steps = body["parameters"]["num_inference_steps"]
    return Outcome(seconds, first_step_seconds, None, status, ended - load_begun, 0.0, steps)
