"""Jobs while workers, the predictor and the queue are killed with SIGKILL at random moments.

Each job ends once, in one state and with the picture of its seed, and no webhook is lost. The
output of a failed run has its seed: ``CHAOS_SEED=17`` repeats the kills. With ``CHAOS_FULL=1`` the
real predictor gets as many jobs and kills as the scripted one, which takes minutes.
"""

from __future__ import annotations

import io
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from demo.run import free_port
from jobs.job import FINAL
from tests.jobs.chaos import POISON, Chaos
from tests.jobs.clients import Order
from tests.jobs.receiver import Message
from tests.jobs.scripted_predictor import ScriptedPredictor
from tests.redis_server import needs_redis
from tests.serving import PREDICT, Server, predictor_command
from tests.waiting import wait_until

SEED = int(os.environ.get("CHAOS_SEED", time.time_ns() % 1_000_000))
# The default of ``max_tries``, for the job that kills the predictor.
TRIES = 3
# What a picture is compared with: the body of the job with its seed, and the file.
IsPicture = Callable[[dict[str, Any], bytes], bool]


@pytest.fixture
def chance() -> random.Random:
    """The random numbers of a run, which begin again with ``CHAOS_SEED``."""
    print(f"CHAOS_SEED={SEED}")
    return random.Random(SEED)


def survive(
    chaos: Chaos, jobs: int, kills: int, chance: random.Random, is_picture: IsPicture, **fields: Any
) -> None:
    """Run jobs while processes are killed, then jobs of which one kills the predictor."""
    orders = chaos.orders("killed", jobs, chance, **fields)
    started = time.monotonic()
    chaos.run(orders, kills, chance)
    print(f"{jobs} jobs and {kills} kills took {time.monotonic() - started:.1f} s")
    innocent = chaos.orders("innocent", 40, chance, **fields)
    poison = Order("poison", {"prompt": POISON, **fields})
    chaos.run_poison([*innocent[:20], poison, *innocent[20:]], TRIES)
    orders += [*innocent, poison]
    check_jobs(chaos, orders, is_picture)
    check_webhooks(chaos, orders)
    check_poison(chaos.clients.ended[poison.key])
    check_logs(chaos)


def check_jobs(chaos: Chaos, orders: Sequence[Order], is_picture: IsPicture) -> None:
    """Each key has one job, which has ended once, as its client saw it."""
    ended = chaos.clients.ended
    listed = list(chaos.clients.listed())
    assert len(listed) == len(orders)
    assert {job["id"]: job for job in listed} == {job["id"]: job for job in ended.values()}
    counts = Counter(job["status"] for job in ended.values())
    assert chaos.metrics("ended_total") == {status: counts[status] for status in FINAL}
    for order in orders:
        check_job(chaos, order, ended[order.key], is_picture)


def check_job(chaos: Chaos, order: Order, job: dict[str, Any], is_picture: IsPicture) -> None:
    """The job has ended as it should, with the picture of its seed."""
    assert job["seed"] == order.body.get("seed", job["seed"])
    if order.key == "poison":
        return
    allowed = {"succeeded", "cancelled"} if order.is_cancelled else {"succeeded"}
    assert job["status"] in allowed, job
    if job["status"] == "succeeded":
        picture = chaos.clients.request("GET", job["pictures"][0]["url"])
        assert is_picture(order.body | {"seed": job["seed"]}, picture.content), job


def check_webhooks(chaos: Chaos, orders: Sequence[Order]) -> None:
    """No event is lost, and each has one identifier and one body."""
    wait_until(lambda: chaos.metrics("webhooks") == {"": 0}, 120)
    messages: dict[str, list[Message]] = defaultdict(list)
    for message in list(chaos.receiver.messages):
        messages[message.id].append(message)
    assert all(len({one.body for one in same}) == 1 for same in messages.values())
    # Each event was delivered once, even if its receiver saw it more often. The progress may have
    # been replaced by a newer event when it arrived.
    delivered = chaos.metrics("webhooks_ended_total")["delivered"]
    assert delivered <= len(messages)
    assert delivered >= sum("_progress_" not in message for message in messages)
    events: dict[str, list[str]] = defaultdict(list)
    for same in messages.values():
        document = same[0].document
        events[document["data"]["id"]].append(document["type"])
        if document["type"] == "job.completed":
            assert document["data"] in chaos.clients.ended.values()
    for order in orders:
        job = chaos.clients.ended[order.key]
        check_events(job, events[job["id"]], has_webhook="webhook" in order.body)


def check_events(job: dict[str, Any], events: Sequence[str], *, has_webhook: bool) -> None:
    """The events of a job, without those of its progress, which newer ones replace."""
    counts = Counter(event for event in events if event != "job.progress")
    if not has_webhook:
        assert not events, job
    elif job["status"] == "cancelled":
        # Perhaps before a predictor had accepted it.
        assert counts in ({"job.completed": 1}, {"job.completed": 1, "job.started": 1}), job
    else:
        assert counts == {"job.completed": 1, "job.started": 1}, job


def check_poison(job: dict[str, Any]) -> None:
    """The job that kills the predictor has failed after its tries."""
    assert (job["status"], job["tries"]) == ("failed", TRIES)
    assert job["error"] == "the connection to the predictor ended before the job was done"


def check_logs(chaos: Chaos) -> None:
    """No replica has had an unexpected error."""
    for replica in chaos.replicas:
        log = replica.log.read_text()
        assert "a bug" not in log, log
        assert "Traceback" not in log, log


def survive_with_scripted_predictor(
    folder: Path, jobs: int, kills: int, chance: random.Random, *, with_redis: bool
) -> None:
    scripted = ScriptedPredictor()
    command = [sys.executable, "-m", "tests.jobs.scripted_predictor", str(scripted.port)]
    # No number of kills makes an innocent job fail.
    bounds = {"with_redis": with_redis, "max_tries": kills + 1}

    def is_picture(body: dict[str, Any], content: bytes) -> bool:
        return content == scripted.picture_of(body)

    with Chaos.running(folder, command, scripted.port, **bounds) as chaos:
        survive(chaos, jobs, kills, chance, is_picture)


@needs_redis
def test_jobs_survive_kills(tmp_path: Path, chance: random.Random) -> None:
    survive_with_scripted_predictor(tmp_path, 1000, 50, chance, with_redis=True)


def test_jobs_in_a_file_survive_kills(tmp_path: Path, chance: random.Random) -> None:
    survive_with_scripted_predictor(tmp_path, 200, 20, chance, with_redis=False)


@needs_redis
def test_jobs_survive_kills_of_the_real_predictor(
    demo_model: Path, server: Server, tmp_path: Path, chance: random.Random
) -> None:
    port = free_port()
    jobs, kills = (1000, 50) if os.environ.get("CHAOS_FULL") == "1" else (60, 6)
    command = predictor_command(port, "tests.predictor.faulty_server", model_dir=demo_model)

    @cache
    def expected(prompt: str, seed: int) -> np.ndarray[Any, Any]:
        body = {"prompt": prompt, "seed": seed, "steps": 4}
        return pixels(httpx.post(server.url + PREDICT, json=body, timeout=60).content)

    def is_picture(body: dict[str, Any], content: bytes) -> bool:
        # Sums over batches of different sizes round differently.
        difference = pixels(content) - expected(body["prompt"], body["seed"])
        return bool(np.abs(difference).max() <= 2)

    with Chaos.running(tmp_path, command, port, with_redis=True, max_tries=kills + 1) as chaos:
        survive(chaos, jobs, kills, chance, is_picture, steps=4)


def pixels(content: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.int16)
