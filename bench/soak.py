"""Soak a real server in wild requests: nothing may fail with 500, leak, or log a prompt.

``python -m bench.soak --minutes 20`` writes ``bench/results/soak.json`` and exits with 1 if a check
fails. The first fifth of the time warms the server up: caches fill and the allocator settles.
Memory, threads and descriptors are then read while the server is idle, and again at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from bench.wild_requests import SECRET, WildRequest, wild_requests
from demo.run import NAME, OUTPUT, VOLUME, free_port, publish, server

RESULTS = Path(__file__).resolve().parent / "results" / "soak.json"
USERS = 8
WARM_UP = 0.2
IDLE_SECONDS = 5.0
MAX_GROWTH = 0.03
# What a busy or draining server may answer to a valid request.
BUSY = (429, 503)
# What an invalid request may get of 5xx: `unload` of the only model, and a timeout of its own that
# is too short, as Triton's are in microseconds.
EXPECTED = ("501", "503", "504")

Figures = dict[str, Any]


class Usage(NamedTuple):
    """What a process and its children hold, from ``/proc``."""

    rss_mib: float
    threads: int
    descriptors: int
    processes: int


def main() -> int:
    """Soak, print, write; the exit status is 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--requests", type=int, default=0, help="stop after this many; 0: never")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    publish(NAME, VOLUME)
    port = free_port()
    with server(port, "--a1111_api=true") as url:
        pid = _listener(port)
        figures = asyncio.run(_soak(url, pid, 60 * options.minutes, options.requests, options.seed))
        health = httpx.get(url)
        if not health.is_success:
            figures["problems"].append(f"health answered {health.status_code} at the end")
        figures["problems"] += problems_of_the_log((OUTPUT / "predictor.log").read_text("utf-8"))
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    return int(bool(figures["problems"]))


async def _soak(url: str, pid: int, seconds: float, most: int, seed: int) -> Figures:
    counts: Counter[str] = Counter()
    problems: list[str] = []
    started = time.monotonic()
    await _load(url, seed, WARM_UP * seconds, int(WARM_UP * most), counts, problems)
    before = usage(pid)
    rest = most - int(WARM_UP * most)
    await _load(url, seed + 1, (1 - WARM_UP) * seconds, rest, counts, problems)
    after = usage(pid)
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "minutes": round((time.monotonic() - started) / 60, 1),
        "requests": counts.total(),
        "answers": dict(sorted(counts.items())),
        "before": before._asdict(),
        "after": after._asdict(),
        "problems": problems + _problems_of_growth(before, after),
    }


async def _load(
    url: str, seed: int, seconds: float, most: int, counts: Counter[str], problems: list[str]
) -> None:
    """Send the requests of a seed, then close all connections and wait until the server is idle."""
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        await Load(client, url, wild_requests(seed), counts, problems).run(seconds, most)
    await asyncio.sleep(IDLE_SECONDS)


class Load:
    """Users that send the requests of one stream, each the next one after its response."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        requests: Iterator[WildRequest],
        counts: Counter[str],
        problems: list[str],
    ) -> None:
        self._client = client
        self._address = urlsplit(url)
        self._requests = requests
        self._counts = counts
        self._problems = problems

    async def run(self, seconds: float, most: int) -> None:
        """Send requests for that time, or ``most`` of them if that is not 0."""
        self._end = time.monotonic() + seconds
        self._left = most or sys.maxsize
        await asyncio.gather(*(self._user() for _ in range(USERS)))

    async def _user(self) -> None:
        while time.monotonic() < self._end and self._left > 0:
            self._left -= 1
            request = next(self._requests)
            try:
                status = await (self._raw(request) if request.raw else self._send(request))
            except httpx.HTTPError as error:
                status = type(error).__name__
            self._counts[f"{request.kind}: {status}"] += 1
            self._check(request, status)

    async def _send(self, request: WildRequest) -> str:
        response = await self._client.request(
            request.method,
            request.path,
            headers=list(request.headers),
            content=request.content,
        )
        return str(response.status_code)

    async def _raw(self, request: WildRequest) -> str:
        """Send bytes; the status of the response, or how the connection ended."""
        assert request.raw is not None
        reader, writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        with contextlib.suppress(ConnectionError):
            writer.write(request.raw)
            await writer.drain()
        status = "left"
        if not request.hangs_up:
            status = await _status_line(reader)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return status

    def _check(self, request: WildRequest, status: str) -> None:
        is_problem = status.startswith("5") and status not in EXPECTED
        if request.is_valid:
            is_problem = status not in ("200", *map(str, BUSY))
        if is_problem or status.endswith("Error"):
            self._problems.append(
                f"{request.kind}: {status}: {request.path[:200]} {request.content[:200]!r}"
            )


async def _status_line(reader: asyncio.StreamReader) -> str:
    try:
        line = await asyncio.wait_for(reader.readline(), 60)
    except TimeoutError:
        return "no answer"
    except ConnectionError:
        return "closed"
    found = re.match(rb"HTTP/1.[01] (\d+)", line)
    return found[1].decode() if found else "closed"


def usage(pid: int) -> Usage:
    """Of the process and its children together."""
    family = [pid, *_children(pid)]
    status = ["".join(Path(f"/proc/{one}/status").read_text("utf-8")) for one in family]
    return Usage(
        rss_mib=round(sum(_number(text, "VmRSS") for text in status) / 1024, 1),
        threads=sum(_number(text, "Threads") for text in status),
        descriptors=sum(len(list(Path(f"/proc/{one}/fd").iterdir())) for one in family),
        processes=len(family),
    )


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [int(one) for task in tasks for one in (task / "children").read_text().split()]
    return [*children, *(below for child in children for below in _children(child))]


def _number(status: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)
    return int(found[1]) if found else 0


def _listener(port: int) -> int:
    """The process that listens on the port: a child of this one."""
    for pid in _children(os.getpid()):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if f"--http_port={port}".encode() in command:
            return pid
    raise SystemExit(f"no process listens on {port}")


def _problems_of_growth(before: Usage, after: Usage) -> list[str]:
    problems = []
    if after.rss_mib > before.rss_mib * (1 + MAX_GROWTH):
        problems.append(f"memory grew from {before.rss_mib} to {after.rss_mib} MiB")
    for name, start, end in zip(Usage._fields[1:], before[1:], after[1:], strict=True):
        if end > start:
            problems += [f"{name} grew from {start} to {end}"]
    return problems


def problems_of_the_log(log: str) -> list[str]:
    problems = []
    if SECRET in log:
        line = next(line for line in log.splitlines() if SECRET in line)
        problems.append(f"the log has a prompt: {line[:200]}")
    problems += [f"the log has a trace: {part[-300:]}" for part in log.split("Traceback")[1:4]]
    return problems


if __name__ == "__main__":
    sys.exit(main())
