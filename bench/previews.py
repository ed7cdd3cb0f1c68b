"""Measure what previews cost: 16 users with previews and without, in turns, on one server.

``python -m bench.previews`` prints the figures and writes them to ``bench/results/previews.json``.
All users read event streams of the demo model and send the same requests, so the ratio of the
pictures a second is portable; the seconds hold only for the machine that the results name.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from PIL import Image

from bench.concurrency import CROWD, MIXED
from bench.contestants import OURS, running
from bench.figures import Figures, ratios, summary
from bench.load import Body, Outcome, Run, bodies, closed_loop
from demo.run import NAME, OUTPUT, VOLUME, publish

RESULTS = Path(__file__).resolve().parent / "results" / "previews.json"
# As many as OpenAI's ``partial_images`` allows.
PREVIEWS = 3
GOAL = 0.9
_EVENTS = {"accept": "text/event-stream"}
_WITHOUT, _WITH = "without", "ours"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=4, help="of each user in a round")
    options = parser.parse_args()
    publish(NAME, VOLUME)
    runs = _measure(options.rounds, options.pictures)
    made = [outcome for run in runs[_WITH] for outcome in run.outcomes if not outcome.error]
    result: Figures = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "rounds": options.rounds,
        "users": CROWD,
        "requested_previews": PREVIEWS,
        "previews_per_picture": round(sum(one.previews for one in made) / max(1, len(made)), 2),
        "without": summary(runs[_WITHOUT]),
        "with": summary(runs[_WITH]),
        "with_to_without": ratios(runs, median)[_WITHOUT],
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    ratio = result["with_to_without"]["images_per_second"]
    print(f"throughput with previews: {ratio:g} of that without (goal: at least {GOAL:g})")


def _measure(rounds: int, pictures: int) -> dict[str, list[Run]]:
    """Both loads in every round, in alternating order, so that noise affects both alike."""
    runs: dict[str, list[Run]] = {_WITHOUT: [], _WITH: []}
    with running(OURS, VOLUME / NAME, OUTPUT) as server:
        # The engine learns its batch size.
        closed_loop(server.address, bodies(MIXED), CROWD, pictures)
        for number in range(rounds):
            for name in (_WITHOUT, _WITH) if number % 2 else (_WITH, _WITHOUT):
                count = PREVIEWS if name == _WITH else 0
                requests = ({**body, "previews": count} for body in bodies(MIXED, seed=number))
                run = closed_loop(server.address, requests, CROWD, pictures, ask_stream)
                runs[name].append(run)
    return runs


async def ask_stream(
    client: httpx.AsyncClient, address: str, body: Body, load_begun: float
) -> Outcome:
    """One request for a stream of events; the first step is the first event that reports one."""
    begun = time.perf_counter()
    first_step_seconds, previews, error = 0.0, 0, "the stream ended early"
    try:
        async with client.stream("POST", address, json=body, headers=_EVENTS) as answer:
            name = ""
            async for line in answer.aiter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    if name == "progress" and not first_step_seconds and json.loads(value)["step"]:
                        first_step_seconds = time.perf_counter() - begun
                    previews += name == "preview"
                    if name == "result":
                        _verify(json.loads(value))
                        error = ""
                    elif name == "error":
                        error = value[:100]
    except httpx.HTTPError as broken:
        return Outcome(time.perf_counter() - begun, 0.0, repr(broken), 0)
    ended = time.perf_counter()
    return Outcome(
        ended - begun,
        first_step_seconds,
        error or None,
        answer.status_code,
        ended - load_begun,
        steps=body["parameters"]["num_inference_steps"],
        previews=previews,
    )


def _verify(result: dict[str, Any]) -> None:
    (prediction,) = result["predictions"]
    Image.open(io.BytesIO(base64.b64decode(prediction["image"]["b64"]))).verify()


if __name__ == "__main__":
    main()
