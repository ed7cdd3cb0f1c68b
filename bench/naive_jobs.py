"""The server that ``bench.jobs`` compares with: the queue API that tutorials show, with FastAPI.

``python -m bench.naive_jobs PORT [REDIS_URL]`` keeps the jobs in a dict, or in a list of Redis. It
has no seeds, positions, priorities, leases, retries, limits or records of when anything happened,
and the worker ends each job at once. In memory, a restart loses all jobs.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field


class GenerationRequest(BaseModel):
    """The body of a submission."""

    prompt: str
    steps: int = Field(default=25, ge=1, le=50)


def in_memory() -> FastAPI:
    """The jobs are in a queue and a dict of the process."""
    waiting: asyncio.Queue[tuple[str, GenerationRequest]] = asyncio.Queue()
    results: dict[str, str] = {}

    async def work() -> None:
        while True:
            job_id, _ = await waiting.get()
            results[job_id] = f"/outputs/{job_id}.png"

    app = _with_worker(work)

    @app.post("/generate", status_code=202)
    async def generate(request: GenerationRequest) -> dict[str, str]:
        job_id = str(uuid.uuid4())
        await waiting.put((job_id, request))
        return {"job_id": job_id, "status": "pending"}

    @app.get("/status/{job_id}")
    async def status(job_id: str) -> dict[str, str]:
        return {"job_id": job_id, "status": "completed" if job_id in results else "pending"}

    return app


def in_redis(url: str) -> FastAPI:
    """The jobs are in a list and in hashes of Redis."""
    client = redis.asyncio.Redis.from_url(url, decode_responses=True)

    async def work() -> None:
        while True:
            _, job_id = await client.blpop(["waiting"])  # type: ignore[misc]
            await client.hset(f"naive:{job_id}", "status", "completed")  # type: ignore[misc]

    app = _with_worker(work)

    @app.post("/generate", status_code=202)
    async def generate(request: GenerationRequest) -> dict[str, str]:
        job_id = str(uuid.uuid4())
        record = {"status": "pending", "body": request.model_dump_json()}
        await client.hset(f"naive:{job_id}", mapping=record)  # type: ignore[misc]
        await client.rpush("waiting", job_id)  # type: ignore[misc]
        return {"job_id": job_id, "status": "pending"}

    @app.get("/status/{job_id}")
    async def status(job_id: str) -> dict[str, str]:
        found = await client.hget(f"naive:{job_id}", "status")  # type: ignore[misc]
        return {"job_id": job_id, "status": str(found)}

    return app


def _with_worker(work: object) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(work())  # type: ignore[operator]
        yield
        task.cancel()

    return FastAPI(lifespan=lifespan)


if __name__ == "__main__":
    port, *urls = sys.argv[1:]
    app = in_redis(urls[0]) if urls else in_memory()
    uvicorn.run(app, port=int(port), loop="asyncio", log_level="warning", access_log=False)
