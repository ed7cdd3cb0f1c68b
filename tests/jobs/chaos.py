"""All processes that jobs depend on, each killed at random moments and started again at once."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from demo.run import free_port
from tests.jobs.clients import PATIENCE_SECONDS, Clients, Order
from tests.jobs.jobs_process import jobs_command
from tests.jobs.killable import Killable
from tests.jobs.receiver import SECRET, Receiver
from tests.redis_server import RedisServer
from tests.waiting import wait_until

# The first word of the prompt that kills the predictor.
POISON = "die"
_REPLICAS = 2
_WEBHOOKS: dict[str, Any] = {
    "webhook_secrets": SECRET,
    "webhook_networks": "127.0.0.1/32",
    "webhook_allow_http": True,
    "webhook_timeout_seconds": 1,
}


@dataclass
class Chaos:
    """Replicas of the jobs program with a predictor, a queue, clients and a receiver."""

    replicas: list[Killable]
    predictor: Killable
    redis: Killable | None
    clients: Clients
    receiver: Receiver

    @classmethod
    @contextlib.contextmanager
    def running(
        cls, folder: Path, predictor: Sequence[str], port: int, *, with_redis: bool, max_tries: int
    ) -> Iterator[Chaos]:
        """Start all processes; ``predictor`` is the command of the one that serves on ``port``."""
        flags: dict[str, Any] = {"sqlite_path": folder / "jobs.sqlite3"}
        with contextlib.ExitStack() as stack:
            redis = None
            if with_redis:
                server = RedisServer(folder)
                redis = stack.enter_context(Killable(server.command, folder / "redis.log"))
                flags = {"redis_url": server.url}
            flags |= {"max_tries": max_tries, **_WEBHOOKS}
            ports = [free_port() for _ in range(_REPLICAS)]
            replicas = [
                Killable(
                    jobs_command(one, f"http://127.0.0.1:{port}", **flags),
                    folder / f"jobs-{one}.log",
                )
                for one in ports
            ]
            served = Killable(predictor, folder / "predictor.log")
            for process in (*replicas, served):
                stack.enter_context(process)
            clients = stack.enter_context(Clients([f"http://127.0.0.1:{one}" for one in ports]))
            yield cls(replicas, served, redis, clients, stack.enter_context(Receiver()))

    def orders(self, name: str, count: int, chance: random.Random, **fields: Any) -> list[Order]:
        """Jobs with few distinct pictures; some without a seed, with a webhook or cancelled."""
        return [self._order(f"{name}-{number}", chance, fields) for number in range(count)]

    def run(self, orders: Sequence[Order], kills: int, chance: random.Random) -> None:
        """Run the jobs, and kill processes while most of them are not finished."""
        victims = self._victims(kills, chance)
        moments = sorted(chance.randrange(len(orders) * 9 // 10) for _ in victims)
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(self.clients.run, orders)

            def is_due(moment: int) -> bool:
                return run.done() or len(self.clients.ended) >= moment

            for victim, moment in zip(victims, moments, strict=True):
                wait_until(partial(is_due, moment), PATIENCE_SECONDS)
                time.sleep(chance.uniform(0, 0.1))
                victim.restart()
            run.result()
        assert sum(victim.starts - 1 for victim in set(victims)) == kills

    def run_poison(self, orders: Sequence[Order], max_tries: int) -> None:
        """Run jobs of which one kills the predictor, which starts again each time."""
        for replica in self.replicas:
            replica.command.append(f"--max_tries={max_tries}")
            replica.restart()
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(self.clients.run, orders)
            while not run.done():
                self.predictor.revive()
                time.sleep(0.02)
            run.result()

    def metrics(self, name: str) -> dict[str, int]:
        """The samples of a metric by the value of their last label, if they have one."""
        text = self.clients.request("GET", "/metrics").text
        lines = (line.split(" ") for line in text.splitlines() if not line.startswith("#"))
        found = [(*labels.partition("{")[::2], value) for labels, value in lines]
        return {
            labels.rstrip('"}').rpartition('"')[2]: int(value)
            for one, labels, value in found
            if one == f"diffusion_jobs_{name}"
        }

    def _order(self, key: str, chance: random.Random, fields: dict[str, Any]) -> Order:
        (pace,) = chance.choices(("brief", "slow"), (9, 1))
        body = {"prompt": f"{pace} star {chance.randrange(4)}", **fields}
        body["priority"] = chance.randrange(10)
        if chance.random() < 0.95:
            body["seed"] = chance.randrange(5)
        if chance.random() < 0.7:
            kind = chance.choices(("ok", "flaky", "stalls"), (90, 8, 2))[0]
            body["webhook"] = self.receiver.url(f"/{kind}/{key}")
        return Order(key, body, is_cancelled=chance.random() < 0.05)

    def _victims(self, count: int, chance: random.Random) -> list[Killable]:
        """Who is killed, in a random order; each kind of process equally often."""
        kinds = [self.replicas, [self.predictor], [self.redis] if self.redis else []]
        found = [chance.choice(kind) for _ in range(count) for kind in kinds if kind][:count]
        chance.shuffle(found)
        return found
