"""Users of a job server: connections of their own, in a process of their own.

The process shares the cores with the server, so a user costs little: raw asyncio connections and
prepared requests. ``lags`` has how late a timer of the process fires, in seconds, which is also
how late it may note a response.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

One = TypeVar("One")

_BODY = b'{"prompt": "a red circle on a blue background", "num_inference_steps": 20}'
_LAG_SECONDS = 0.005
_END_SECONDS = 60.0


@dataclass(frozen=True)
class Api:
    """The routes of a job server, and the words of its documents."""

    submit: str
    job: str
    id: str
    final: str
    # How a user waits for the end, by turns: polls, one long request, or a stream of events.
    waits: Sequence[str]


OURS = Api("/v1/jobs", "/v1/jobs/", "id", "succeeded", ("poll", "wait", "events"))
NAIVE = Api("/generate", "/status/", "job_id", "completed", ("poll",))


@dataclass
class Load:
    """What users have seen: seconds from each submission to its 202, and the other responses."""

    seconds: float = 0.0
    accepted: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    ended: int = 0
    lags: list[float] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """One connection with at most one request at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._response: asyncio.Future[tuple[int, bytes, float]] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, port: int) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, "127.0.0.1", port)
        return connection

    @property
    def is_open(self) -> bool:
        """Whether the server has not closed the connection."""
        return self._transport is not None and not self._transport.is_closing()

    async def send(self, request: bytes) -> tuple[int, bytes, float]:
        """The status and the body of the response, and its seconds.

        Raises:
            ConnectionError: the server closes the connection.
        """
        assert self._transport
        self._response = asyncio.get_running_loop().create_future()
        begun = time.perf_counter()
        self._transport.write(request)
        status, body, ended = await self._response
        return status, body, ended - begun

    def close(self) -> None:
        """Close it at once."""
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._response and not self._response.done():
            self._response.set_exception(ConnectionResetError("the connection was closed"))

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = head.partition(b"content-length: ")[2].split(b"\r\n", 1)[0]
        is_complete = len(body) >= int(length) if length else body.endswith(b"0\r\n\r\n")
        if is_complete and self._response and not self._response.done():
            self._buffer = b""
            self._response.set_result((int(head[9:12]), body, now))


class Users:
    """A load of ``count`` users on a server."""

    def __init__(self, port: int, api: Api, count: int) -> None:
        self._port = port
        self._api = api
        self._count = count
        self._load = Load()
        self._opened: list[Connection] = []
        head = f"POST {api.submit} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(_BODY)}\r\n\r\n"
        self._submission = head.encode() + _BODY

    def run(self, load: Callable[[], Awaitable[None]]) -> Load:
        """Run one of the loads below."""

        async def main() -> None:
            lag = asyncio.create_task(self._note_lags())
            begun = time.perf_counter()
            await load()
            self._load.seconds = self._load.seconds or time.perf_counter() - begun
            lag.cancel()
            for connection in self._opened:
                connection.close()
            await asyncio.sleep(0)

        asyncio.run(main())
        return self._load

    async def think_and_submit(self, seconds: float, think: float) -> None:
        """Each user thinks for ``think`` seconds on average, submits a job, and waits for it."""
        begun = time.perf_counter()
        connections = await self._connections()

        async def user(number: int, connection: Connection) -> None:
            rng = random.Random(number)
            while True:
                pause = rng.expovariate(1 / think)
                if time.perf_counter() + pause > begun + seconds:
                    return
                await asyncio.sleep(pause)
                if not connection.is_open:
                    # A server closes connections that are silent for some seconds.
                    connection = await self._open()
                if job_id := await self._submit(connection):
                    wait = self._api.waits[number % len(self._api.waits)]
                    await self._wait(connection, job_id, wait)

        await self._all(user, connections)
        self._load.seconds = seconds

    async def submit_at_once(self, *, on_new_connections: bool) -> None:
        """All users submit a job at the same instant."""
        connections = [] if on_new_connections else await self._connections()

        async def user(number: int, connection: Connection | None) -> None:
            begun = time.perf_counter()
            connection = connection or await self._open()
            await self._submit(connection, time.perf_counter() - begun)

        await self._all(user, connections or [None] * self._count)

    async def submit_without_pause(self, jobs: int) -> None:
        """Each user submits the next job as soon as the last one is accepted."""
        connections = await self._connections()
        begun = time.perf_counter()

        async def user(_: int, connection: Connection) -> None:
            while len(self._load.accepted) + len(self._load.errors) < jobs:
                if job_id := await self._submit(connection):
                    last.append(job_id)

        last: list[str] = []
        await self._all(user, connections)
        self._load.seconds = time.perf_counter() - begun
        connection = await self._open()
        for _ in range(100):
            await self._read(connection, last[-1])

    async def _open(self) -> Connection:
        self._opened.append(await Connection.open(self._port))
        return self._opened[-1]

    async def _connections(self) -> list[Connection]:
        return [await self._open() for _ in range(self._count)]

    async def _all(self, user: Callable[[int, One], Awaitable[None]], ones: list[One]) -> None:
        async def safely(number: int, one: One) -> None:
            try:
                await user(number, one)
            except OSError as error:
                self._load.errors.append(str(error))

        await asyncio.gather(*(safely(number, one) for number, one in enumerate(ones)))

    async def _submit(self, connection: Connection, before: float = 0.0) -> str | None:
        status, body, seconds = await connection.send(self._submission)
        if status != 202:
            self._load.errors.append(f"{status} {body[:100]!r}")
            return None
        self._load.accepted.append(before + seconds)
        return str(json.loads(body)[self._api.id])

    async def _read(self, connection: Connection, job_id: str, headers: str = "") -> str:
        request = f"GET {self._api.job}{job_id} HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}\r\n"
        _, body, seconds = await connection.send(request.encode())
        if not headers:
            self._load.reads.append(seconds)
        return str(json.loads(body)["status"])

    async def _wait(self, connection: Connection, job_id: str, how: str) -> None:
        deadline = time.perf_counter() + _END_SECONDS
        status = ""
        while status != self._api.final and time.perf_counter() < deadline:
            if how == "poll":
                await asyncio.sleep(1)
                status = await self._read(connection, job_id)
            elif how == "wait":
                status = await self._read(connection, job_id, "prefer: wait=30\r\n")
            else:
                request = f"GET {self._api.job}{job_id}/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
                _, body, _ = await connection.send(request.encode())
                status = self._api.final if f'"{self._api.final}"'.encode() in body else ""
        self._load.ended += status == self._api.final

    async def _note_lags(self) -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(_LAG_SECONDS)
            self._load.lags.append(time.perf_counter() - begun - _LAG_SECONDS)
