"""Shut a busy server down at random moments, and count the requests without an answer.

``python -m bench.drains`` prints the figures and writes them to ``bench/results/drains.json``. Each
drain has a server process of its own. Its clients keep their connections; three of four send
health probes, the others pictures. They send until a response closes the connection, as a client of
a cluster would. A reset, or a response that is cut off, is a request without an answer.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from bench.contestants import OURS, running
from bench.figures import Figures
from demo.run import NAME, OUTPUT, VOLUME, publish

RESULTS = Path(__file__).resolve().parent / "results" / "drains.json"
CLIENTS = 20
_BODY = {"prompt": "a red star", "parameters": {"num_inference_steps": 4}}
_MOST_SECONDS_BEFORE = 2.0
_PATIENCE_SECONDS = 120


def main() -> None:
    """Drain, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drains", type=int, default=20)
    drains = parser.parse_args().drains
    publish(NAME, VOLUME)
    rng, found = random.Random(0), Counter[str]()
    for number in range(1, drains + 1):
        answers = drain(rng.uniform(0, _MOST_SECONDS_BEFORE))
        print(f"drain {number}: {dict(answers)}", flush=True)
        found += answers
    result: Figures = {
        "drains": drains,
        "clients": CLIENTS,
        "requests": found.total(),
        "by_answer": dict(found.most_common()),
        "without_an_answer": sum(count for name, count in found.items() if not name.isdigit()),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def drain(seconds: float) -> Counter[str]:
    """The answers of all clients of a server that gets SIGTERM after ``seconds``."""
    in_use = threading.Barrier(CLIENTS + 1)
    with running(OURS, VOLUME / NAME, OUTPUT) as server, ThreadPoolExecutor(CLIENTS) as threads:
        clients = [
            threads.submit(_request_until_closed, server.address, in_use, is_picture=not index % 4)
            for index in range(CLIENTS)
        ]
        in_use.wait(_PATIENCE_SECONDS)
        time.sleep(seconds)
        server.process.send_signal(signal.SIGTERM)
        answers = sum((client.result() for client in clients), Counter[str]())
        answers[f"exit status {server.process.wait(_PATIENCE_SECONDS)}"] += 1
    del answers["exit status 0"]
    return answers


def _request_until_closed(
    address: str, in_use: threading.Barrier, *, is_picture: bool
) -> Counter[str]:
    """Send on one connection until a response closes it; count the statuses and the failures."""
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.netloc, timeout=_PATIENCE_SECONDS)
    answers = Counter[str]()
    is_closing = False
    while not is_closing:
        method, path = ("POST", url.path) if is_picture else ("GET", "/v2/health/live")
        headers = {"content-type": "application/json"}
        try:
            connection.request(method, path, json.dumps(_BODY) if is_picture else None, headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            answers[type(error).__name__] += 1
            return answers
        answers[str(answer.status)] += 1
        is_closing = answer.headers.get("connection") == "close"
        if answers.total() == 1:
            in_use.wait(_PATIENCE_SECONDS)
    return answers


if __name__ == "__main__":
    main()
